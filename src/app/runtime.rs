//! The runtime folder: where the processes of one user on this machine find each other. It belongs
//! to that user alone, and holds for each serving process a socket that answers how it is
//! ([`StatusSocket`]), and for `playhouse up` the token of its admin port ([`AdminToken`]).

use super::printable::escape;
use anyhow::Context;
use nix::unistd::{geteuid, getuid};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Names the folder; without it there are several places.
const VARIABLE: &str = "PLAYHOUSE_RUNTIME_DIR";
/// Of a process's socket; before it stand what the process is and its id.
const SOCKET: &str = "sock";
/// What a process says that is ready. Anything else is why it is not.
const READY: &str = "ready";
/// How long a process on this machine may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long whoever asks may take to read a line.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause when the kernel cannot give a connection: it would say so again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Says why a process is not ready; `None` when it is.
pub type Health =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// The places for the folder, best first.
fn places() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()) {
        return vec![named.into()];
    }
    let user = getuid();
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty());
    let session = session.map_or_else(|| format!("/run/user/{user}").into(), PathBuf::from);
    let temporary = std::env::temp_dir().join(format!("playhouse-{user}"));
    vec![
        session.join("playhouse"),
        "/run/playhouse".into(),
        temporary,
    ]
}

/// This user's folder, made if need be.
///
/// # Errors
/// When it can be made in none of the places.
pub fn folder() -> anyhow::Result<PathBuf> {
    let mut refused = None;
    for place in places() {
        match private(&place) {
            Ok(()) => return Ok(place),
            Err(error) => refused = Some((place, error)),
        }
    }
    let (place, error) = refused.context("there is no place for a runtime folder")?;
    let shown = place.display();
    Err(error).with_context(|| format!("cannot make the runtime folder {shown} (set {VARIABLE})"))
}

/// Makes a folder that nobody else enters.
fn private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !is_ours(folder) {
        return Err(io::Error::other("it belongs to another user"));
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

fn is_ours(folder: &Path) -> bool {
    // A link would lead to somebody else's choice of place.
    fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
}

/// The folders of this user that there are, in whichever place.
fn folders() -> impl Iterator<Item = PathBuf> {
    places().into_iter().filter(|place| is_ours(place))
}

/// A process that says how it is to whoever of its user asks. Dropping it removes the socket.
pub struct StatusSocket {
    path: PathBuf,
    _answering: JoinSet<()>,
}

impl StatusSocket {
    /// Opens the socket of this process, which is a `role`.
    ///
    /// # Errors
    /// When there is no folder, or the socket cannot be made in it.
    pub fn open(role: &str, health: Health) -> anyhow::Result<StatusSocket> {
        let folder = folder()?;
        sweep(&folder);
        let path = folder.join(format!("{role}-{}.{SOCKET}", std::process::id()));
        // Of a process that had this id before.
        fs::remove_file(&path).ok();
        let shown = path.display();
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen at {shown}"))?;
        let mut answering = JoinSet::new();
        answering.spawn(answer(listener, health));
        Ok(StatusSocket {
            path,
            _answering: answering,
        })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!(error:% = error; "the socket in the runtime folder is left behind");
        }
    }
}

/// Removes the sockets of processes that have ended.
fn sweep(folder: &Path) {
    for (path, pid) in sockets(folder) {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            fs::remove_file(path).ok();
        }
    }
}

/// Answers one after the other: there are few who ask.
async fn answer(listener: UnixListener, health: Health) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let Ok(not_ready) = timeout(ANSWER_TIMEOUT, health()).await else {
            // Who asks hears nothing: it is not well.
            continue;
        };
        let line = not_ready.unwrap_or_else(|| READY.into());
        timeout(READ_TIMEOUT, stream.write_all(line.as_bytes()))
            .await
            .ok();
    }
}

/// The sockets in a folder, with the ids of their processes.
fn sockets(folder: &Path) -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == SOCKET))
        .filter_map(|path| {
            let (_, pid) = path.file_stem()?.to_str()?.rsplit_once('-')?;
            let pid = pid.parse().ok()?;
            Some((path, pid))
        })
        .collect()
}

/// A process of this user, and what it said when it was asked.
struct ProcessAnswer {
    /// Such as `proxy-17`.
    name: String,
    /// `None` when it did not answer in time.
    answer: Option<String>,
}

/// `playhouse healthcheck`: whether the processes of this user on this machine, or the one of this
/// id, are ready, or `live`: answer at all.
///
/// # Errors
/// When one of them is not, or there is none.
pub fn healthcheck(live: bool, only: Option<u32>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot ask")?;
    let all: Vec<ProcessAnswer> = runtime.block_on(async {
        for folder in folders() {
            let found = query_all(&folder, only).await;
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    });
    if all.is_empty() {
        let whose = only.map_or(String::new(), |pid| format!(" of id {pid}"));
        let places: Vec<_> = places().iter().map(|it| it.display().to_string()).collect();
        let places = places.join(", ");
        anyhow::bail!("no process of this user{whose} is found (in {places}; see {VARIABLE})");
    }
    for ProcessAnswer { name, answer } in all {
        match answer {
            None => anyhow::bail!("{name} does not answer"),
            Some(answer) if !live && answer != READY => {
                anyhow::bail!("{name}: {}", escape(&answer))
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn query_all(folder: &Path, only: Option<u32>) -> Vec<ProcessAnswer> {
    let mut all = Vec::new();
    for (path, pid) in sockets(folder) {
        if only.is_some_and(|only| only != pid) {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let queried = timeout(ANSWER_TIMEOUT, query(&path)).await;
        let answer = match queried {
            Ok(Err(error)) if is_nobody(&error) => continue,
            Ok(Ok(answer)) if !answer.is_empty() => Some(answer),
            _ => None,
        };
        all.push(ProcessAnswer {
            name: name.into_owned(),
            answer,
        });
    }
    all
}

/// Whether nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), ConnectionRefused | NotFound)
}

async fn query(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The token that `playhouse up` makes for its admin port, kept in a file that only its user reads.
/// Dropping it removes the file.
pub struct AdminToken {
    secret: String,
    file: Option<PathBuf>,
}

impl AdminToken {
    /// A new one, for the admin port at this address. Without a place to keep it the log says that
    /// commands do not find it.
    pub fn make(admin: SocketAddr) -> AdminToken {
        let secret: [u8; 32] = rand::random();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let kept = folder().and_then(|folder| keep(&token_file(&folder, admin.port()), &secret));
        if let Err(error) = &kept {
            log::warn!(error:% = format!("{error:#}");
                "the admin token cannot be kept: status, drain and kill need --token-file");
        }
        AdminToken {
            secret,
            file: kept.ok(),
        }
    }

    /// The token itself, in plain text: for the operator's terminal alone.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl Drop for AdminToken {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = fs::remove_file(file)
        {
            log::debug!(error:% = error; "the admin token's file is left behind");
        }
    }
}

fn token_file(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("admin-{port}.token"))
}

fn keep(file: &Path, secret: &str) -> anyhow::Result<PathBuf> {
    fs::remove_file(file).ok();
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(secret.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.to_owned())
}

/// The token that a `playhouse up` of this user made for the admin port at this address. Only for
/// an address of this machine: nobody else is to be shown it.
pub fn admin_token(host: &str, port: u16) -> Option<String> {
    let address = match host {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.trim_matches(['[', ']']).parse().ok(),
    }?;
    // Only an address of one's own can be bound.
    UdpSocket::bind((address, 0)).ok()?;
    folders().find_map(|folder| fs::read_to_string(token_file(&folder, port)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_its_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        for folder in [&open, &root.path().join("new")] {
            private(folder).unwrap();
            assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
        }
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(private(&link).is_err());
    }

    #[test]
    fn a_token_is_kept_for_its_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let file = token_file(root.path(), 8081);
        fs::write(&file, "of one that died").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        keep(&file, "sesame").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "sesame");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_token_is_shown_to_this_machine_only() {
        assert_eq!(admin_token("192.0.2.1", 8081), None);
        assert_eq!(admin_token("grid.example", 8081), None);
    }
}
