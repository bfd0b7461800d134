//! What a Service of Kubernetes is to its clients: one address, and each new connection goes to the next
//! of its endpoints. Connections that are open stay where they are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Everything it carries ends when it is dropped.
pub struct Balancer {
    address: SocketAddr,
    endpoints: Arc<Mutex<Vec<Endpoint>>>,
    /// Connections that an endpoint did not take.
    lost: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Endpoint {
    address: SocketAddr,
    /// Connections that were led to it.
    led: Arc<AtomicUsize>,
}

impl Balancer {
    pub async fn start() -> Balancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let endpoints: Arc<Mutex<Vec<Endpoint>>> = Arc::default();
        let lost = Arc::new(AtomicUsize::new(0));
        let (known, losses) = (endpoints.clone(), lost.clone());
        let accept = async move {
            let mut connections = JoinSet::new();
            for turn in 0.. {
                let (mut client, _) = listener.accept().await.expect("it listens");
                let endpoint = {
                    let known = known.lock().expect("nobody panics with it");
                    (!known.is_empty()).then(|| known[turn % known.len()].clone())
                };
                let losses = losses.clone();
                connections.spawn(async move {
                    let Some(endpoint) = endpoint else {
                        losses.fetch_add(1, Ordering::Relaxed);
                        return;
                    };
                    match TcpStream::connect(endpoint.address).await {
                        Ok(mut server) => {
                            endpoint.led.fetch_add(1, Ordering::Relaxed);
                            // How it ends is the business of both ends.
                            copy_bidirectional(&mut client, &mut server).await.ok();
                        }
                        Err(_) => {
                            losses.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        };
        Balancer {
            address,
            endpoints,
            lost,
            server: tokio::spawn(accept),
        }
    }

    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn add(&self, address: SocketAddr) {
        let mut endpoints = self.endpoints.lock().expect("nobody panics with it");
        endpoints.push(Endpoint {
            address,
            led: Arc::default(),
        });
    }

    pub fn remove(&self, address: SocketAddr) {
        let mut endpoints = self.endpoints.lock().expect("nobody panics with it");
        endpoints.retain(|it| it.address != address);
    }

    /// Connections that were led to this endpoint so far.
    pub fn led_to(&self, address: SocketAddr) -> usize {
        let endpoints = self.endpoints.lock().expect("nobody panics with it");
        let found = endpoints.iter().find(|it| it.address == address);
        found.map_or(0, |it| it.led.load(Ordering::Relaxed))
    }

    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
