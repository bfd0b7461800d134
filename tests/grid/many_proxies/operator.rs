//! An operator sees and stops any session from any proxy, and is told when that cannot be said of
//! all of them.

use super::{all_live, original_workers};
use crate::support::{Connected, Grid, Proxy, RedisServer, eventually, eventually_equal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const TOKEN: &str = "of-the-operator";
const UNKNOWN: &str = "0123456789abcdef";

/// What the sessions' page says, with their ids in order.
async fn listed(proxy: &Proxy) -> (Vec<String>, Value) {
    let page: Value = proxy.admin("GET", "/v1/sessions").await.json();
    let sessions = page["sessions"].as_array().unwrap();
    let ids = sessions.iter().map(|it| it["id"].as_str().unwrap());
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    (ids, page["others"].clone())
}

/// Waits until this is the list, and everybody has contributed to it.
async fn all_are_listed(proxy: &Proxy, sessions: &[Connected]) {
    let mut expected: Vec<_> = sessions.iter().map(|it| it.session().to_owned()).collect();
    expected.sort();
    let others = serde_json::json!({ "answered": 1, "silent": [], "unlisted": 0, "error": null });
    eventually_equal("sessions of the grid", (expected, others), async || {
        listed(proxy).await
    })
    .await;
}

/// The answer to the order to end a session, which is repeated while it could not be confirmed.
async fn confirmed(proxy: &Proxy, session: &str) -> u16 {
    let path = format!("/v1/sessions/{session}");
    let mut unconfirmed = false;
    let status = eventually("an answer of everybody", async || {
        let status = proxy.admin("DELETE", &path).await.status;
        unconfirmed |= status == 503;
        (status != 503).then_some(status)
    })
    .await;
    // A slow machine's answer may have come too late: the session is gone all the same.
    if unconfirmed && status == 404 {
        200
    } else {
        status
    }
}

/// What `playhouse status` prints.
async fn status(grid: &Grid) -> String {
    let file = grid.folder().join("operator-token");
    std::fs::write(&file, TOKEN).unwrap();
    let said = grid
        .command(&["status", "--token-file", file.to_str().unwrap()])
        .await;
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

#[tokio::test]
async fn any_proxy_shows_and_ends_sessions_of_all() {
    let redis = RedisServer::start().await;
    let _workers = original_workers(&redis, 2).await;
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .foreign_workers(2)
        .admin_token(TOKEN)
        // Whoever is stopped stays on the books.
        .config("store: { proxy_ttl: 10m, poll_interval: 500ms }")
        .start()
        .await;
    let (here, there) = (grid.proxy(0), grid.proxy(1));
    let mut sessions = vec![
        here.connect().await,
        there.connect().await,
        there.connect().await,
    ];
    all_are_listed(here, &sessions).await;
    all_are_listed(there, &sessions).await;
    // The other proxy's answer may come too late for one look.
    eventually("the table has all of them", async || {
        let table = status(&grid).await;
        let all = sessions.iter().all(|it| table.contains(it.session()));
        all.then_some(())
    })
    .await;

    // Who has no token reaches nobody, neither here nor there.
    let path = format!("/v1/sessions/{}", sessions[1].session());
    assert_eq!(here.admin_with("DELETE", &path, &[]).await.status, 401);
    all_live(&mut sessions).await;

    let mut killed = sessions.swap_remove(1);
    assert_eq!(confirmed(here, killed.session()).await, 200);
    let close = killed.closed().await.expect("a reason");
    assert!(close.reason.contains("operator"), "{close:?}");
    all_are_listed(here, &sessions).await;
    assert_eq!(confirmed(here, killed.session()).await, 404);
    assert_eq!(confirmed(here, UNKNOWN).await, 404);
    all_live(&mut sessions).await;

    let other = Pid::from_raw(grid.process("proxy 1").processes[0].pid as i32);
    kill(other, Signal::SIGSTOP).unwrap();
    let own = vec![sessions[0].session().to_owned()];
    eventually("the silent one is named", async || {
        let (ids, others) = listed(here).await;
        (ids == own && others["silent"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let answer = here
        .admin("DELETE", &format!("/v1/sessions/{UNKNOWN}"))
        .await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    let error: Value = answer.json();
    assert_eq!(error["error"]["code"], "not_confirmed");
    let table = status(&grid).await;
    assert!(table.contains("did not answer"), "{table}");
    kill(other, Signal::SIGCONT).unwrap();
    all_are_listed(here, &sessions).await;

    // Without the store a proxy knows its own, and says so.
    redis.pause();
    eventually("the store is missed", async || {
        let (ids, others) = listed(here).await;
        (ids == own && others["error"].is_string()).then_some(())
    })
    .await;
    let elsewhere = format!("/v1/sessions/{UNKNOWN}");
    assert_eq!(here.admin("DELETE", &elsewhere).await.status, 503);
    let mut last = sessions.swap_remove(0);
    let path = format!("/v1/sessions/{}", last.session());
    assert_eq!(here.admin("DELETE", &path).await.status, 200);
    assert!(last.closed().await.is_some());
    redis.resume();
    all_are_listed(here, &sessions).await;
}
