//! From sources to a [`Config`]: defaults, the file over them, the environment over the file,
//! flags over all. Everything wrong in any of them is told at once.

use super::certificate::{self, CertificateError};
use super::model::{Config, KEYS, Role};
use super::{relations, store_url};
use crate::settings::{
    ConfigErrors, Draft, Environment, File, Flags, Layer, MAX_BYTES, Masking, Origin, Problems,
    ReadFile,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Variables of ours that are no keys: the file's name, the token of `playhouse status`, a folder.
const OTHER_VARIABLES: &[&str] = &["CONFIG", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "RUNTIME_DIR"];

/// Where a configuration comes from. Enough to load it again, which is what a reload does.
#[derive(Clone)]
pub struct Sources {
    pub role: Role,
    pub file: Option<PathBuf>,
    pub environment: Environment,
    pub flags: Flags,
}

/// A configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Where each key of the table has its value from.
    pub(super) origins: Vec<Origin>,
    /// What is probably a mistake and does not stop anything.
    pub warnings: Vec<String>,
    /// Whether the file is there and holds nothing, not even a comment.
    pub(super) file_is_empty: bool,
    /// The files it was made from, as they were read.
    pub(super) read: Fingerprints,
    /// The file's text, when it can be read only once: a pipe.
    pub(super) piped: Option<Arc<Piped>>,
    /// Why the certificate cannot be served, at a [reload](Purpose::Reload).
    pub(super) certificate_refused: Option<ConfigErrors>,
}

/// A configuration that came through a pipe, secrets included.
pub(super) struct Piped(io::Result<String>);

impl fmt::Debug for Piped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Piped(…)")
    }
}

/// What a configuration is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A process is about to start, or somebody asks whether it could.
    Start,
    /// A process runs, and serves the certificate that it has: another one that cannot be served
    /// is refused for itself, and holds nothing else back.
    Reload,
}

/// Files by their content: the YAML, those with secrets, the certificate and its key. `None` for
/// one that cannot be read.
pub(super) type Fingerprints = BTreeMap<PathBuf, Option<u64>>;

/// One key as it is shown to an operator.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    pub key: &'static str,
    /// As YAML, secrets masked.
    pub value: String,
    /// `default`, `conf.yaml:3:5`, `environment NAME` or a flag.
    pub source: String,
    pub hot: bool,
}

impl Sources {
    /// Reads everything.
    ///
    /// # Errors
    /// All mistakes in the file, the environment and the flags.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let piped = self.read_pipe().map(Arc::new);
        let (loaded, _) = self.load_again(piped.as_ref(), Purpose::Start);
        loaded.map(|loaded| Loaded { piped, ..loaded })
    }

    /// The text of a file that is a pipe, such as `/dev/stdin` or a shell's `<(…)`: a second reader
    /// would find it empty.
    fn read_pipe(&self) -> Option<Piped> {
        let path = self.file.as_ref()?;
        let kind = fs::metadata(path).ok()?.file_type();
        let once = kind.is_fifo() || kind.is_char_device() || kind.is_socket();
        once.then(|| Piped(read_small_file(path)))
    }

    /// Like [`Sources::load`], with files as a parameter.
    ///
    /// # Errors
    /// All mistakes in the file, the environment and the flags.
    pub fn load_with(&self, read_file: ReadFile<'_>) -> Result<Loaded, ConfigErrors> {
        self.fingerprinted(read_file, Purpose::Start).0
    }

    /// Like [`Sources::load`], with what a pipe held; the files are told even when it fails.
    pub(super) fn load_again(
        &self,
        piped: Option<&Arc<Piped>>,
        purpose: Purpose,
    ) -> (Result<Loaded, ConfigErrors>, Fingerprints) {
        let read_other: ReadFile<'_> = match purpose {
            Purpose::Start => &read_small_file,
            Purpose::Reload => &read_again,
        };
        let Some(Piped(text)) = piped.map(|piped| &**piped) else {
            return self.fingerprinted(read_other, purpose);
        };
        let read_file = |path: &Path| match text {
            _ if self.file.as_deref() != Some(path) => read_other(path),
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let (loaded, mut read) = self.fingerprinted(&read_file, purpose);
        // Nobody looks into a pipe again.
        if let Some(file) = &self.file {
            read.remove(file);
        }
        let loaded = loaded.map(|loaded| Loaded {
            read: read.clone(),
            piped: piped.cloned(),
            ..loaded
        });
        (loaded, read)
    }

    fn fingerprinted(
        &self,
        read_file: ReadFile<'_>,
        purpose: Purpose,
    ) -> (Result<Loaded, ConfigErrors>, Fingerprints) {
        let read = RefCell::new(Fingerprints::new());
        let read_file = |path: &Path| {
            let content = read_file(path);
            let print = content.as_deref().ok().map(fingerprint);
            read.borrow_mut().insert(path.to_owned(), print);
            content
        };
        let loaded = self.resolve(&read_file, purpose);
        let read = read.into_inner();
        let loaded = loaded.map(|loaded| Loaded {
            read: read.clone(),
            ..loaded
        });
        (loaded, read)
    }

    fn resolve(&self, read_file: ReadFile<'_>, purpose: Purpose) -> Result<Loaded, ConfigErrors> {
        let mut draft = Draft::new(&KEYS, Config::defaults(self.role), read_file);
        let file_is_empty = self.read_file(&mut draft);
        self.environment.apply(&mut draft);
        store_url::complete(&mut draft, &self.environment);
        self.flags.apply(&mut draft);
        relations::check(
            &draft.config,
            self.role,
            &draft.origins,
            &mut draft.problems,
        );
        let mut of_certificate = Problems::default();
        if let Some((origin, error)) = self.check_certificate(&draft) {
            let apart = match purpose {
                Purpose::Start => &mut draft.problems,
                Purpose::Reload => &mut of_certificate,
            };
            apart.add(origin, error.key(), error.to_string());
        }
        draft.problems.into_result()?;

        let suspects = self.environment.suspects(&KEYS, OTHER_VARIABLES);
        let warnings = suspects
            .into_iter()
            .map(|(name, meant)| format!("environment {name} means nothing here; is it {meant}?"));
        Ok(Loaded {
            config: draft.config,
            origins: draft.origins,
            warnings: warnings.collect(),
            file_is_empty,
            read: Fingerprints::new(),
            piped: None,
            certificate_refused: of_certificate.into_result().err(),
        })
    }

    /// Whether the file is there and empty.
    fn read_file(&self, draft: &mut Draft<'_, Config>) -> bool {
        let Some(path) = &self.file else {
            return false;
        };
        let name = &path.display().to_string();
        match (draft.read_file)(path) {
            Ok(text) => {
                File { name, text: &text }.apply(draft);
                text.trim().is_empty()
            }
            Err(error) => {
                let message = format!("{name}: cannot be read: {error}");
                draft.problems.add(Origin::Default, "", message);
                false
            }
        }
    }

    /// Only those who serve need the certificate; others share the file and may not have it.
    fn check_certificate(&self, draft: &Draft<'_, Config>) -> Option<(Origin, CertificateError)> {
        let serves = matches!(self.role, Role::Proxy | Role::Up);
        let readable = !draft.problems.concern("tls.cert") && !draft.problems.concern("tls.key");
        let tls = draft.config.tls.files().filter(|_| serves && readable)?;
        let error = certificate::load_with(&tls, draft.read_file, SystemTime::now()).err()?;
        let index = KEYS.find(error.key());
        let index = index.expect("the table has tls.cert and tls.key");
        Some((draft.origins[index].clone(), error))
    }
}

impl Loaded {
    /// Where a key has its value from; `None` for a name that is no key.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        KEYS.find(path).map(|index| &self.origins[index])
    }

    /// Every key with its value, secrets masked.
    pub fn settings(&self) -> Vec<Setting> {
        KEYS.iter()
            .zip(&self.origins)
            .map(|(key, origin)| Setting {
                key: key.path,
                value: key.show(&self.config, Masking::Masked),
                source: origin.to_string(),
                hot: key.hot,
            })
            .collect()
    }
}

/// Reads a text file that cannot be larger than a configuration is.
pub(super) fn read_small_file(path: &Path) -> io::Result<String> {
    read_small(&fs::File::open(path)?)
}

/// The same in a process that serves: a pipe that came into the file's place is not waited for.
fn read_again(path: &Path) -> io::Result<String> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    read_small(&file)
}

fn read_small(file: &fs::File) -> io::Result<String> {
    let mut text = String::new();
    let limit = MAX_BYTES as u64 + 1;
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// How the files look at this moment.
pub(super) fn fingerprints(files: impl IntoIterator<Item = PathBuf>) -> Fingerprints {
    let look = |path: PathBuf| {
        let content = read_again(&path).ok();
        (path, content.as_deref().map(fingerprint))
    };
    files.into_iter().map(look).collect()
}

fn fingerprint(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
