//! `playhouse up` as somebody has it in a terminal: it ends with it, and makes a token of its own.

use crate::support::{Grid, eventually, free_port};
use nix::sys::signal::Signal;
use std::fs::{File, OpenOptions, metadata};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A new terminal: the end of whoever shows it, and the name of the other.
fn terminal() -> (OwnedFd, String) {
    // SAFETY: the calls have no demands but a descriptor that is a terminal's, and the name is
    // copied before anybody else could ask for one.
    unsafe {
        let shown = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(shown >= 0 && libc::grantpt(shown) == 0 && libc::unlockpt(shown) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(shown, name.as_mut_ptr(), name.len()), 0);
        let name = std::ffi::CStr::from_ptr(name.as_ptr());
        (
            OwnedFd::from_raw_fd(shown),
            name.to_str().unwrap().to_owned(),
        )
    }
}

/// Starts it as the first process of a session, with this terminal.
fn start_in(mut command: Command, terminal: String, log: File) -> Child {
    command.stdout(log.try_clone().unwrap()).stderr(log);
    // SAFETY: both calls may be made between fork and exec; the name was made before.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            // The first terminal that such a process opens becomes its own.
            let opened = OpenOptions::new().read(true).write(true).open(&terminal)?;
            drop(opened);
            Ok(())
        });
    }
    command.spawn().unwrap()
}

#[tokio::test]
async fn it_ends_with_its_terminal_and_not_with_a_reload() {
    let grid = Grid::new().workers(0).start().await;
    let (shown, name) = terminal();
    let log = grid.folder().join("in a terminal.log");
    let mut command = grid.program("up");
    let free = || format!("127.0.0.1:{}", free_port());
    command.args([
        "--workers",
        "0",
        "--listen",
        &free(),
        "--admin-listen",
        &free(),
    ]);
    let mut up = start_in(command, name, File::create(&log).unwrap());
    let said = async |words: &str| {
        eventually(words, async || {
            let said = std::fs::read_to_string(&log).unwrap();
            said.contains(words).then_some(())
        })
        .await;
    };
    said("serving").await;
    let pid = nix::unistd::Pid::from_raw(up.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGHUP).unwrap();
    said("nothing hot is new").await;
    assert_eq!(up.try_wait().unwrap(), None);
    drop(shown);
    let status = eventually("it ends", async || up.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn up_makes_a_token_that_its_user_finds_and_a_page_does_not() {
    let mut grid = Grid::new().workers(0).start().await;
    let token = grid.admin_token().unwrap();
    let kept = grid.runtime_folder();
    let file = kept.join(format!("admin-{}.token", grid.admin_address().port()));
    let mode = |path| metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&kept), mode(&file)), (0o700, 0o600));
    for path in ["/v1/sessions", "/v1/workers", "/v1/config", "/metrics"] {
        assert_eq!(
            grid.admin_with("GET", path, &[]).await.status,
            401,
            "{path}"
        );
    }
    let kill = "/v1/sessions/0123456789abcdef";
    assert_eq!(grid.admin_with("DELETE", kill, &[]).await.status, 401);
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(
            grid.admin_with("GET", path, &[]).await.status,
            200,
            "{path}"
        );
    }
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer)];
    let answer = grid.admin_with("GET", "/v1/sessions", &headers).await;
    assert_eq!(answer.status, 200);
    let status = grid.command(&["status"]).await;
    assert!(status.status.success(), "{status:?}");
    let address = format!("Dashboard http://{}/#token={token}", grid.admin_address());
    grid.logs(&address).await;
    grid.logs("No worker is started here").await;
    grid.logs(&format!("The grid is at {}", grid.url())).await;
    let log = grid.log();
    assert_eq!(log.matches(&token).count(), 1, "{log}");
    grid.stop(Signal::SIGINT).await;
    assert!(!file.exists());
}

#[tokio::test]
async fn up_makes_no_token_where_one_is_configured() {
    let grid = Grid::new().workers(0).admin_token("sesame").start().await;
    let file = format!("admin-{}.token", grid.admin_address().port());
    assert!(!grid.runtime_folder().join(file).exists());
    assert!(!grid.log().contains("#token="));
    assert_eq!(grid.admin_with("GET", "/v1/workers", &[]).await.status, 401);
    assert_eq!(grid.admin("GET", "/v1/workers").await.status, 200);
}
