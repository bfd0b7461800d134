//! What may stand between a client and a grid, or a grid and a worker: something that passes bytes
//! on and has rules of its own. It cuts connections that are silent, and can be told to hold back
//! what comes from the server.

use super::machine::free_port;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A middlebox in front of one server. Everything it carries ends when it is dropped.
pub struct Middlebox {
    address: SocketAddr,
    held: watch::Sender<bool>,
    cut: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Middlebox {
    /// Cuts a connection in which no byte has gone either way for as long as `silence`.
    pub async fn start(server: SocketAddr, silence: Duration) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let held = watch::Sender::new(false);
        let cut = Arc::new(AtomicUsize::new(0));
        let (holding, cuts) = (held.clone(), cut.clone());
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("it listens");
                let (held, cuts) = (holding.subscribe(), cuts.clone());
                connections.spawn(async move {
                    let server = TcpStream::connect(server).await.expect("it is there");
                    if pass_on(client, server, silence, held).await == End::Cut {
                        cuts.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        };
        Middlebox {
            address,
            held,
            cut,
            server: tokio::spawn(accept),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Stops to read what the server says, or goes on.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Connections cut for their silence.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(PartialEq, Eq)]
enum End {
    /// One of the two ended it.
    Theirs,
    Cut,
}

async fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    silence: Duration,
    mut held: watch::Receiver<bool>,
) -> End {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let holds = *held.borrow_and_update();
        let passed = tokio::select! {
            // What has come counts, however late it is looked at.
            biased;
            read = client.read(&mut up) => match read {
                Ok(read) if read > 0 => server.write_all(&up[..read]).await,
                _ => return End::Theirs,
            },
            read = server.read(&mut down), if !holds => match read {
                Ok(read) if read > 0 => client.write_all(&down[..read]).await,
                _ => return End::Theirs,
            },
            // Its sender lives as long as the box.
            changed = held.changed() => changed.map_err(std::io::Error::other),
            () = tokio::time::sleep(silence), if !holds => return End::Cut,
        };
        if passed.is_err() {
            return End::Theirs;
        }
    }
}
