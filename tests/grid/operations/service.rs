//! What the service manager is told, and the units in `deploy/`.

use crate::support::{FakePlaywright, Grid, eventually_equal};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// The next message, as a service manager reads it.
async fn told(socket: &UnixDatagram) -> String {
    let mut message = [0; 512];
    let length = timeout(Duration::from_secs(60), socket.recv(&mut message)).await;
    let length = length.expect("it tells").unwrap();
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[tokio::test]
async fn the_service_manager_is_told_of_start_reload_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new()
        .fakes(&[&fake])
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .start()
        .await;
    let pid = grid.process("proxy 0").processes[0].pid;
    assert_eq!(told(&socket).await, format!("READY=1\nMAINPID={pid}"));
    grid.signal(Signal::SIGHUP);
    let reloading = told(&socket).await;
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(told(&socket).await.starts_with("READY=1"));
    grid.upgrade().await;
    let pid = grid.process("proxy 0 after 1 upgrades").processes[0].pid;
    assert_eq!(told(&socket).await, format!("READY=1\nMAINPID={pid}"));
    eventually_equal("processes that were replaced", 0, async || {
        grid.predecessors()
    })
    .await;
    grid.stop(Signal::SIGTERM).await;
    assert_eq!(told(&socket).await, "STOPPING=1");
}
