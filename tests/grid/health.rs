//! `playhouse healthcheck`, where a container or an init system asks.

use crate::support::{FakePlaywright, Grid, Kind, RedisServer, eventually};
use nix::sys::signal::Signal;

/// What it says of the processes of a grid; `Ok` when they are well.
fn check(grid: &Grid, arguments: &[&str]) -> Result<(), String> {
    let mut command = grid.program("healthcheck");
    // Nobody is there: whoever asks over HTTP, or by way of a proxy, fails.
    let nobody = "http://127.0.0.1:1";
    command.env("HTTP_PROXY", nobody).env("ALL_PROXY", nobody);
    command.env("ADMIN_ADDR", "127.0.0.1:1").args(arguments);
    let output = command
        .output()
        .expect("the binary was built for the tests");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

fn fails_with(said: Result<(), String>, why: &str) {
    let said = said.unwrap_err();
    assert!(said.contains(why), "{said}");
}

#[tokio::test]
async fn a_proxy_answers_for_itself_whatever_its_configuration_is() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new().fakes(&[&fake]).start().await;
    assert_eq!(check(&grid, &[]), Ok(()));
    grid.configure("limits: [ this is no configuration\n");
    assert_eq!(check(&grid, &[]), Ok(()));
    let proxy = grid.process("proxy 0").processes[0].clone();
    proxy.signal(Signal::SIGSTOP);
    for live in [&[][..], &["--live"]] {
        fails_with(check(&grid, live), "does not answer");
    }
    proxy.signal(Signal::SIGCONT);
    assert_eq!(check(&grid, &["--pid", &proxy.pid.to_string()]), Ok(()));
    fails_with(check(&grid, &["--pid", "1"]), "no process of this user");

    let session = grid.connect().await;
    grid.signal(Signal::SIGTERM);
    eventually("it is not ready any more", async || check(&grid, &[]).err()).await;
    fails_with(check(&grid, &[]), "draining");
    assert_eq!(check(&grid, &["--live"]), Ok(()));
    session.close().await;
    grid.ended("proxy 0").await;
    fails_with(check(&grid, &["--live"]), "no process of this user");
}

#[tokio::test]
async fn of_two_processes_the_one_that_was_replaced_is_not_asked() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new().fakes(&[&fake]).start().await;
    let session = grid.connect().await;
    grid.upgrade().await;
    assert_eq!(check(&grid, &[]), Ok(()));
    grid.kill("proxy 0");
    eventually("the old one serves again", async || check(&grid, &[]).ok()).await;
    session.close().await;
}

#[tokio::test]
async fn a_worker_answers_for_itself() {
    let redis = RedisServer::start().await;
    let grid = Grid::new().redis(&redis).worker_process(&[]).start().await;
    let worker = grid.process("worker 0").of_kind(Kind::Playhouse)[0].clone();
    let proxy = grid.process("proxy 0").processes[0].clone();
    let (of_worker, of_proxy) = (worker.pid.to_string(), proxy.pid.to_string());
    assert_eq!(check(&grid, &[]), Ok(()), "both are well");
    worker.signal(Signal::SIGSTOP);
    fails_with(check(&grid, &[]), "worker");
    fails_with(check(&grid, &["--pid", &of_worker]), "does not answer");
    assert_eq!(check(&grid, &["--pid", &of_proxy]), Ok(()));
    worker.kill();
    eventually("only the proxy is left", async || check(&grid, &[]).ok()).await;
}
