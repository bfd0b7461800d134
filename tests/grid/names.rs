//! Workers that are told by name: the name's addresses are looked up again and again, and any of
//! them that answers will do.

use crate::support::{FakePlaywright, Grid, GridBuilder, compiled, eventually, free_port};
use std::net::IpAddr;
use tempfile::TempDir;

/// What `worker.test` stands for, for the processes of one grid.
struct Names {
    folder: TempDir,
}

impl Names {
    fn new(addresses: &[&str]) -> Names {
        let folder = tempfile::tempdir().unwrap();
        compiled("names", folder.path());
        let names = Names { folder };
        names.stand_for(addresses);
        names
    }

    /// From the next question on.
    fn stand_for(&self, addresses: &[&str]) {
        let new = self.folder.path().join("names.new");
        std::fs::write(&new, addresses.join("\n")).unwrap();
        std::fs::rename(&new, self.folder.path().join("names")).unwrap();
    }

    /// A grid with the worker that listens there, by its name.
    fn grid(&self, port: u16) -> GridBuilder {
        let file = |name| self.folder.path().join(name).display().to_string();
        let worker = FakePlaywright::endpoint_at(&format!("worker.test:{port}"));
        Grid::new()
            .env("LD_PRELOAD", &file("names.so"))
            .env("NAMES_FILE", &file("names"))
            .static_workers(1)
            .config(&format!(
                "workers: [ {{ endpoint: \"{worker}\", browser: chromium }} ]\n\
                 store: {{ poll_interval: 200ms }}\n\
                 selection: {{ health_interval: 200ms }}"
            ))
    }
}

async fn fake(ip: &str, port: u16) -> FakePlaywright {
    let ip: IpAddr = ip.parse().unwrap();
    FakePlaywright::start_at((ip, port).into()).await
}

#[tokio::test]
async fn a_name_that_moves_is_followed() {
    let port = free_port();
    let (old, new) = (fake("127.0.0.1", port).await, fake("127.0.0.2", port).await);
    let names = Names::new(&["127.0.0.1"]);
    let grid = names.grid(port).start().await;
    let mut staying = grid.connect().await;
    assert_eq!((old.open(), new.open()), (1, 0));
    names.stand_for(&["127.0.0.2"]);
    let moved = eventually("a session at the new address", async || {
        let session = grid.connect().await;
        if new.open() > 0 {
            return Some(session);
        }
        session.close().await;
        None
    })
    .await;
    assert!(staying.answers_a_ping().await, "it stays where it is");
    // A name that cannot be looked up for a while keeps its addresses.
    names.stand_for(&[]);
    let probes = new.probes();
    eventually("some health checks more", async || {
        (new.probes() > probes + 5).then_some(())
    })
    .await;
    grid.connect().await.close().await;
    staying.close().await;
    moved.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn one_address_that_answers_is_enough() {
    let port = free_port();
    let fake = fake("127.0.0.1", port).await;
    // Nobody is at the first one, as when a server listens on IPv4 only.
    let names = Names::new(&["::1", "127.0.0.1"]);
    let grid = names.grid(port).start().await;
    eventually("health checks that are answered", async || {
        (fake.probes() > 5).then_some(())
    })
    .await;
    let session = grid.connect().await;
    assert_eq!(fake.open(), 1);
    session.close().await;
    grid.idle().await;
}
