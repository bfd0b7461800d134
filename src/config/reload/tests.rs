//! Reloads of real files, in paused time.

use super::*;
use crate::config::{Config, Environment, Flags, Role};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far beyond what any of these takes, in paused time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reloader at work on a file.
struct Running {
    file: PathBuf,
    live: LiveConfig,
    status: watch::Receiver<ReloadStatus>,
    asked: Arc<Notify>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Running {
    fn start(text: &str) -> Running {
        Running::with(text, Environment::default(), |folder, text| {
            let file = folder.join("playhouse.yaml");
            fs::write(&file, text).unwrap();
            file
        })
    }

    fn with(
        text: &str,
        environment: Environment,
        write: impl FnOnce(&Path, &str) -> PathBuf,
    ) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), text);
        let sources = Sources {
            role: Role::Proxy,
            file: Some(file.clone()),
            environment,
            flags: Flags::default(),
        };
        let loaded = sources.load().unwrap();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&outcomes);
        let on_reload = Box::new(move |outcome, _: &Config| told.lock().unwrap().push(outcome));
        let reloader = Reloader::new(sources, loaded, on_reload);
        let (live, status) = (reloader.live(), reloader.status());
        let (stop, stopped) = watch::channel(false);
        let asked = Arc::new(Notify::new());
        let task = tokio::spawn(reloader.run(Arc::clone(&asked), stopped));
        Running {
            file,
            live,
            status,
            asked,
            outcomes,
            stop,
            task,
            folder,
        }
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    /// The status once it is as expected.
    async fn when(&mut self, expected: impl FnMut(&ReloadStatus) -> bool) -> ReloadStatus {
        let status = timeout(PATIENCE, self.status.wait_for(expected)).await;
        status.expect("in time").expect("it runs").clone()
    }

    fn config(&self) -> Arc<Config> {
        self.live.load_full()
    }
}

fn seats(n: u32) -> String {
    format!("limits: {{ max_concurrent_sessions: {n} }}\n")
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_follows_the_file() {
    let mut running = Running::start(&seats(5));
    running.write(&seats(7));
    let status = running.when(|s| s.generation == 1).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 7);
    assert_eq!(status.outcome, Outcome::Applied);
    let shown = |s: &ReloadStatus| {
        let mut settings = s.settings.iter();
        let found = settings.find(|s| s.key == "limits.max_concurrent_sessions");
        found.unwrap().value.clone()
    };
    assert_eq!(shown(&status), "7");
}

#[tokio::test(start_paused = true)]
async fn a_mistake_changes_nothing_and_is_told_once() {
    let mut running = Running::start(&seats(5));
    running.write("limits: { max_concurrent_sessions: 0 }\nqueue: { timeout: 1s }\nnope: 1\n");
    let status = running.when(|s| s.outcome == Outcome::Invalid).await;
    assert_eq!(status.errors.len(), 2, "{:?}", status.errors);
    assert!(status.errors[0].contains("1:36: limits.max_concurrent_sessions"));
    assert_eq!(*running.config(), {
        let mut config = Config::defaults(Role::Proxy);
        config.limits.max_concurrent_sessions = 5;
        config
    });
    // Half an hour of looking at the same mistake is one mistake.
    sleep(Duration::from_secs(1800)).await;
    assert_eq!(*running.outcomes.lock().unwrap(), [Outcome::Invalid]);
    running.write(&seats(6));
    let status = running.when(|s| s.outcome == Outcome::Applied).await;
    assert_eq!((status.generation, status.errors.len()), (1, 0));
    assert_eq!(running.config().limits.max_concurrent_sessions, 6);
}

#[tokio::test(start_paused = true)]
async fn a_restart_only_key_waits_and_the_rest_is_applied() {
    let mut running = Running::start("listen: 127.0.0.1:8080\n");
    running.write("listen: 127.0.0.1:9090\nqueue: { timeout: 9s }\n");
    let status = running.when(|s| s.generation == 1).await;
    assert_eq!(status.pending_restart, ["listen"]);
    let config = running.config();
    assert_eq!(config.listen.port(), 8080);
    assert_eq!(config.queue.timeout, Duration::from_secs(9));
    let listen = status.settings.iter().find(|s| s.key == "listen").unwrap();
    assert_eq!(listen.value, "127.0.0.1:8080");
    // Back to what is in force: nothing is pending.
    running.write("listen: 127.0.0.1:8080\n");
    let status = running.when(|s| s.generation == 2).await;
    assert!(status.pending_restart.is_empty());
}

#[tokio::test(start_paused = true)]
async fn old_and_new_values_together_must_hold() {
    let mut running = Running::start("");
    // Fine as a whole; but the heartbeat in force stays at 5 s until a restart.
    running.write("worker: { heartbeat_interval: 1s }\nrecycle: { command_ttl: 2s }\n");
    let status = running.when(|s| s.outcome == Outcome::Invalid).await;
    assert!(status.errors[0].contains("worker.heartbeat_interval: 5s is too long"));
    assert_eq!(
        running.config().recycle.command_ttl,
        Duration::from_secs(60)
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_may_be_replaced_swapped_or_away_for_a_while() {
    let write = |folder: &Path, text: &str| {
        // As Kubernetes mounts a config map.
        fs::create_dir(folder.join("one")).unwrap();
        fs::write(folder.join("one/playhouse.yaml"), text).unwrap();
        symlink("one", folder.join("..data")).unwrap();
        symlink("..data/playhouse.yaml", folder.join("playhouse.yaml")).unwrap();
        folder.join("playhouse.yaml")
    };
    let mut running = Running::with(&seats(1), Environment::default(), write);
    let folder = running.folder.path().to_owned();
    fs::create_dir(folder.join("two")).unwrap();
    fs::write(folder.join("two/playhouse.yaml"), seats(2)).unwrap();
    symlink("two", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 2);
    // An editor that writes beside and renames.
    fs::write(folder.join("new"), seats(3)).unwrap();
    fs::rename(folder.join("new"), &running.file).unwrap();
    running.when(|s| s.generation == 2).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 3);
    fs::remove_file(&running.file).unwrap();
    let status = running.when(|s| s.outcome == Outcome::Invalid).await;
    assert!(status.errors[0].contains("cannot be read"));
    assert_eq!(running.config().limits.max_concurrent_sessions, 3);
    running.write(&seats(4));
    running.when(|s| s.generation == 3).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_reloads_even_when_nothing_changed() {
    let mut running = Running::start(&seats(5));
    running.asked.notify_one();
    let status = running.when(|s| s.generation == 1).await;
    assert_eq!(status.outcome, Outcome::Unchanged);
    assert_eq!(*running.outcomes.lock().unwrap(), [Outcome::Unchanged]);
}

#[tokio::test(start_paused = true)]
async fn the_environment_stays_above_the_file() {
    let environment = [("MAX_CONCURRENT_SESSIONS", "3")].into_iter().collect();
    let mut running = Running::with(&seats(5), environment, |folder, text| {
        fs::write(folder.join("a.yaml"), text).unwrap();
        folder.join("a.yaml")
    });
    running.write(&format!("{}queue: {{ timeout: 1s }}\n", seats(6)));
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 3);
    assert_eq!(running.config().queue.timeout, Duration::from_secs(1));
}

/// As a Secret of Kubernetes is mounted.
#[tokio::test(start_paused = true)]
async fn the_file_of_all_tokens_is_followed_too() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = |version: &str, text: &str| {
        let path = folder.path().join(version);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tokens"), text).unwrap();
        let new = folder.path().join("new");
        symlink(version, &new).unwrap();
        fs::rename(new, folder.path().join("data")).unwrap();
    };
    let token = |name: &str| format!("{{ name: {name}, sha256: {} }}", "ab".repeat(31) + name);
    tokens("1", &format!("[ {}, {} ]", token("c1"), token("c2")));
    let path = folder.path().join("data/tokens");
    let named = [(
        "PLAYHOUSE_AUTH_TOKENS_FILE",
        path.to_str().unwrap().to_owned(),
    )];
    let environment = named.into_iter().collect();
    let mut running = Running::with("{}", environment, |folder, text| {
        let file = folder.join("playhouse.yaml");
        fs::write(&file, text).unwrap();
        file
    });
    assert_eq!(running.tokens(), 2);
    tokens("2", &format!("[ {} ]", token("c2")));
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.tokens(), 1);
    assert_eq!(running.config().auth.tokens[0].name, "c2");
}

#[tokio::test(start_paused = true)]
async fn a_secrets_own_file_is_followed_too() {
    let folder = tempfile::tempdir().unwrap();
    let hash = folder.path().join("hash");
    fs::write(&hash, "ab".repeat(32)).unwrap();
    let text = format!(
        "auth: {{ tokens: [ {{ name: ci, sha256_file: {} }} ] }}",
        hash.display()
    );
    let mut running = Running::start(&text);
    assert_eq!(running.config().auth.tokens[0].sha256, [0xab; 32]);
    fs::write(&hash, "cd".repeat(32)).unwrap();
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.config().auth.tokens[0].sha256, [0xcd; 32]);
}

#[tokio::test(start_paused = true)]
async fn a_half_written_file_is_not_taken() {
    let mut running = Running::start(&seats(5));
    let file = running.file.clone();
    let whole = format!("{}auth: {{ allowed_origins: [] }}\n", seats(9));
    let scribbler = tokio::spawn(async move {
        // Every beginning of the file, some of which are valid.
        for end in 0..=whole.len() {
            fs::write(&file, &whole[..end]).unwrap();
            sleep(SETTLE / 3).await;
        }
    });
    running.when(|s| s.outcome != Outcome::Started).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 9);
    assert_eq!(*running.outcomes.lock().unwrap(), [Outcome::Applied]);
    scribbler.await.unwrap();
}

/// Tokens first in force, and how the file begins without them.
const OPEN: &str = "limits: { max_concurrent_sessions: 7 }\n";
const TOKENS: &str = "auth: { tokens: [ { name: ci, sha256: \"abababababababababababababababababababababababababababababababab\" } ] }\n";

impl Running {
    fn tokens(&self) -> usize {
        self.config().auth.tokens.len()
    }

    fn loads(&self) -> usize {
        self.outcomes.lock().unwrap().len()
    }
}

/// However long whoever writes it takes for a pause in the middle.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_file_that_is_open_for_writing_waits_until_it_is_closed() {
    use std::io::Write;
    let mut running = Running::start(TOKENS);
    let mut generator = fs::File::create(&running.file).unwrap();
    generator.write_all(OPEN.as_bytes()).unwrap();
    sleep(Duration::from_secs(3600)).await;
    // Somebody who asks for a reload does not know better.
    running.asked.notify_one();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((running.tokens(), running.loads()), (1, 0));
    generator.write_all(TOKENS.as_bytes()).unwrap();
    drop(generator);
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.tokens(), 1);
    assert_eq!(running.config().limits.max_concurrent_sessions, 7);
}

/// A generator that opens the file twice, which no kernel can tell from one that is done.
#[tokio::test(start_paused = true)]
async fn a_file_written_in_place_that_lets_everybody_in_has_to_stand_for_longer() {
    let mut running = Running::start(TOKENS);
    running.write(OPEN);
    sleep(SETTLE_OPEN - SETTLE).await;
    assert_eq!((running.tokens(), running.loads()), (1, 0));
    running.write(&format!("{OPEN}{TOKENS}"));
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 7);
    assert_eq!(running.tokens(), 1);
    // It may be meant: then it holds after a while, or at once for whoever says so.
    running.write(OPEN);
    running.when(|s| s.generation == 2).await;
    assert_eq!(running.tokens(), 0);
    running.write(TOKENS);
    running.when(|s| s.generation == 3).await;
    running.write(OPEN);
    running.asked.notify_one();
    let begun = Instant::now();
    running.when(|s| s.generation == 4).await;
    assert_eq!(running.tokens(), 0);
    assert!(begun.elapsed() < SETTLE_OPEN);
}

#[tokio::test(start_paused = true)]
async fn another_file_in_its_place_is_written_to_its_end() {
    let mut running = Running::start(TOKENS);
    let beside = running.folder.path().join("new");
    fs::write(&beside, OPEN).unwrap();
    fs::rename(&beside, &running.file).unwrap();
    let begun = Instant::now();
    running.when(|s| s.generation == 1).await;
    assert_eq!(running.tokens(), 0);
    assert!(begun.elapsed() < SETTLE_OPEN);
}

#[tokio::test(start_paused = true)]
async fn a_pipe_is_read_once_and_what_it_names_is_followed() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let hash = folder.path().join("hash");
    fs::write(&hash, "ab".repeat(32)).unwrap();
    let hash_file = hash.display().to_string();
    let mut running = Running::with("", Environment::default(), move |folder, _| {
        let pipe = folder.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = pipe.clone();
        std::thread::spawn(move || {
            let mut writer = fs::OpenOptions::new().write(true).open(writer).unwrap();
            let tokens = format!("tokens: [ {{ name: ci, sha256_file: {hash_file} }} ]");
            writeln!(writer, "{OPEN}auth: {{ {tokens} }}").unwrap();
        });
        pipe
    });
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.loads(), 0);
    running.asked.notify_one();
    running.when(|s| s.outcome == Outcome::Unchanged).await;
    fs::write(&hash, "cd".repeat(32)).unwrap();
    running.when(|s| s.outcome == Outcome::Applied).await;
    assert_eq!(running.config().auth.tokens[0].sha256, [0xcd; 32]);
    assert_eq!(running.config().limits.max_concurrent_sessions, 7);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_cannot_be_served_holds_nothing_else_back() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| {
        fs::copy(fixtures.join(name), folder.path().join(name)).unwrap();
        folder.path().join(name)
    });
    let tls = format!(
        "tls: {{ cert: {}, key: {} }}\n",
        cert.display(),
        key.display()
    );
    let mut running = Running::start(&format!("{tls}{TOKENS}"));
    // As it is in the middle of a renewal, or for good.
    fs::copy(fixtures.join("other-key.pem"), &key).unwrap();
    running
        .when(|s| s.outcome == Outcome::CertificateRefused)
        .await;
    let renamed = TOKENS.replace("ab", "cd");
    running.write(&format!("{tls}{OPEN}{renamed}"));
    let status = running.when(|s| s.generation == 2).await;
    assert_eq!(running.config().auth.tokens[0].sha256, [0xcd; 32]);
    assert_eq!(status.outcome, Outcome::CertificateRefused);
    assert!(status.errors[0].contains("does not belong to the certificate"));
    fs::copy(fixtures.join("key.pem"), &key).unwrap();
    let status = running.when(|s| s.outcome == Outcome::Unchanged).await;
    assert!(status.errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_no_configuration_of_a_running_grid() {
    let mut running = Running::start(&seats(5));
    running.write("\n");
    let status = running.when(|s| s.outcome == Outcome::Invalid).await;
    assert!(status.errors[0].ends_with("is empty; write {} for all defaults"));
    assert_eq!(running.config().limits.max_concurrent_sessions, 5);
    running.write("{}");
    running.when(|s| s.outcome == Outcome::Unchanged).await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_process() {
    let running = Running::start("");
    running.stop.send_replace(true);
    timeout(PATIENCE, running.task).await.unwrap().unwrap();
}

#[test]
fn secrets_are_masked_in_a_diff() {
    let config = |text: &str| {
        let sources = Sources {
            role: Role::Proxy,
            file: Some("c.yaml".into()),
            environment: Environment::default(),
            flags: Flags::default(),
        };
        let loaded = sources.load_with(&|_| Ok(text.to_owned()));
        (loaded.unwrap(), sources)
    };
    let (old, _) = config("auth: { tokens: [] }");
    let hash = "5e".repeat(32);
    let (new, sources) = config(&format!(
        "auth: {{ tokens: [ {{ name: ci, sha256: {hash} }} ] }}"
    ));
    let merged = merge(&old, new, &sources).unwrap();
    assert_eq!(merged.changes.len(), 1);
    let change = format!("{:?}", merged.changes);
    assert!(
        change.contains("name: ci") && !change.contains("5e5e"),
        "{change}"
    );
    let origin = merged.loaded.origin("auth.tokens").unwrap();
    assert!(matches!(origin, Origin::File { .. }));
}

/// Whoever waited for somebody to write into it would never read the file that comes after it.
#[tokio::test(start_paused = true)]
async fn a_pipe_in_the_place_of_the_file_is_told_and_not_waited_for() {
    let mut running = Running::start(&seats(5));
    fs::remove_file(&running.file).unwrap();
    nix::unistd::mkfifo(&running.file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    running.asked.notify_one();
    let status = running.when(|s| s.outcome == Outcome::Invalid).await;
    assert!(
        status.errors[0].contains("no regular file"),
        "{:?}",
        status.errors
    );
    fs::remove_file(&running.file).unwrap();
    running.write(&seats(7));
    running.when(|s| s.outcome == Outcome::Applied).await;
    assert_eq!(running.config().limits.max_concurrent_sessions, 7);
}
