//! `playhouse healthcheck`, where a container or an init system asks.

use crate::support::{Grid, Kind, RedisServer, eventually};
use nix::sys::signal::Signal;

/// Nobody listens there.
const NO_PROXY: &str = "127.0.0.1:1";

#[tokio::test]
async fn the_proxy_answers_for_itself_and_the_worker_where_there_is_no_proxy() {
    let redis = RedisServer::start().await;
    let grid = Grid::new().redis(&redis).worker_process(&[]).start().await;
    let proxy = grid.admin_url("").replace("http://", "");
    let check = |admin: &str, arguments: &[&str]| {
        let mut command = grid.program("healthcheck");
        let output = command.args(arguments).env("ADMIN_ADDR", admin).output();
        let output = output.expect("the binary was built for the tests");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(said)
        }
    };
    assert_eq!(check(&proxy, &[]), Ok(()));
    assert_eq!(check(NO_PROXY, &[]), Ok(()), "the worker is well");
    let asked_the_proxy = check(NO_PROXY, &["--admin", NO_PROXY]).unwrap_err();
    assert!(
        asked_the_proxy.contains("no grid answers"),
        "{asked_the_proxy}"
    );

    // Its browser server is not there, and it is not able to start another.
    let worker = grid.process("worker 0");
    worker.of_kind(Kind::Playhouse)[0].signal(Signal::SIGSTOP);
    worker.of_kind(Kind::Node)[0].kill();
    eventually("the worker is unwell", async || {
        let why = check(NO_PROXY, &[]).err()?;
        assert!(why.contains("browser server"), "{why}");
        Some(())
    })
    .await;
    assert_eq!(check(&proxy, &[]), Ok(()), "the proxy is well");

    worker.of_kind(Kind::Playhouse)[0].kill();
    eventually("there is no worker", async || {
        let why = check(NO_PROXY, &[]).unwrap_err();
        why.contains("no grid answers").then_some(())
    })
    .await;
}
