//! What [`tokio::sync::watch`] does, as far as the store needs it, but always waking in the order in which
//! was waited: Tokio's wakes in an order that no seed decides.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

struct Shared<T> {
    /// The value, and how often it was changed.
    value: Mutex<(T, u64)>,
    changed: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, (T, u64)> {
        self.value.lock().unwrap()
    }
}

pub struct Sender<T>(Arc<Shared<T>>);

pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value, for as long as nobody else needs it.
pub struct Ref<'a, T>(MutexGuard<'a, (T, u64)>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Sender<T> {
        Sender(Arc::new(Shared {
            value: Mutex::new((value, 0)),
            changed: Notify::new(),
        }))
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.lock())
    }

    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            shared: self.0.clone(),
            seen: self.0.lock().1,
        }
    }

    pub fn send_replace(&self, value: T) -> T {
        let mut before = None;
        self.send_if_modified(|it| {
            before = Some(std::mem::replace(it, value));
            true
        });
        before.expect("it was replaced")
    }

    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|it| {
            modify(it);
            true
        });
    }

    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.lock();
        let modified = modify(&mut value.0);
        value.1 += u64::from(modified);
        drop(value);
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }
}

impl<T> Receiver<T> {
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.lock())
    }

    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.lock();
        self.seen = value.1;
        Ref(value)
    }

    /// Waits for a change that was not seen yet. Its sender being gone is no error here.
    pub async fn changed(&mut self) -> Result<(), ()> {
        loop {
            // It hears of all changes from here on.
            let notified = self.shared.changed.notified();
            let version = self.shared.lock().1;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            notified.await;
        }
    }

    pub async fn wait_for(&mut self, holds: impl Fn(&T) -> bool) -> Result<Ref<'_, T>, ()> {
        while !holds(&self.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(self.borrow())
    }
}
