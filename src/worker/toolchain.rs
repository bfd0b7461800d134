//! What a browser server is made of and where it lies on this machine: Node, a `playwright-core`
//! package, a browser. Only looks; installs nothing and starts nothing.

use super::recorder::{self, Recorder};
use crate::config;
use crate::model::{Browser, Version};
use std::path::{Path, PathBuf};

/// What is needed to start a browser server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub node: PathBuf,
    /// Folder of the `playwright-core` package.
    pub playwright: PathBuf,
    /// Playwright's full version, such as `1.65.1`.
    pub release: String,
    pub version: Version,
    pub browser: Browser,
    /// The browser to start; `None` leaves it to Playwright, which then starts the one that it
    /// downloaded itself.
    pub executable: Option<PathBuf>,
    /// Playwright's channel for a browser that is not built for Playwright.
    pub channel: Option<&'static str>,
    /// Who records videos.
    pub recorder: Recorder,
}

/// What is not on this machine, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingTool {
    #[error(
        "no Node.js found. Install it (apt-get install nodejs), run `make setup`, or set worker.node (PLAYHOUSE_WORKER_NODE)"
    )]
    Node,
    #[error(
        "no playwright-core package found; looked in {looked}. Run `make setup`, or set worker.playwright (PLAYHOUSE_PLAYWRIGHT) to the package's folder"
    )]
    Playwright { looked: String },
    #[error("{} is not a playwright-core package: {problem}. Point worker.playwright (PLAYHOUSE_PLAYWRIGHT) at a folder that holds cli.js and package.json", path.display())]
    NotPlaywright { path: PathBuf, problem: String },
    #[error(
        "no {browser} found. {how}, or set worker.browser_path (PLAYHOUSE_BROWSER_PATH) to its executable"
    )]
    Browser { browser: Browser, how: String },
    #[error("{} is not an executable file. Correct {setting}", path.display())]
    NotExecutable {
        path: PathBuf,
        setting: &'static str,
    },
}

/// A build of the browser that a client wants, and that is not on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The launch option channel names no build of {browser} that this worker has.")]
pub struct MissingChannel {
    browser: Browser,
}

/// Chromium's executables in the order of preference. The headless shell is what Playwright itself
/// uses for headless work: a third of the time to the first page, a quarter of the memory a
/// session. These are the real executables; the scripts of the same name in `/usr/bin` put a shell
/// between Node and the browser.
const CHROMIUM: [&str; 4] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
    "/usr/lib64/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
];

const FIREFOX: [&str; 3] = [
    "/usr/lib/firefox-esr/firefox-esr",
    "/usr/lib/firefox/firefox",
    "/opt/firefox/firefox",
];

/// Builds of Chromium that a client may ask for by Playwright's name (`server/registry/index.ts`), where Linux
/// has them.
const CHANNELS: [(&str, &str); 8] = [
    ("chromium", "/usr/lib/chromium/chromium"),
    (
        "chromium-headless-shell",
        "/usr/lib/chromium/chromium-headless-shell",
    ),
    ("chrome", "/opt/google/chrome/chrome"),
    ("chrome-beta", "/opt/google/chrome-beta/chrome"),
    ("chrome-dev", "/opt/google/chrome-unstable/chrome"),
    ("msedge", "/opt/microsoft/msedge/msedge"),
    ("msedge-beta", "/opt/microsoft/msedge-beta/msedge"),
    ("msedge-dev", "/opt/microsoft/msedge-dev/msedge"),
];

/// Playwright versions that drive a stock Firefox through the channel `moz-firefox` (WebDriver
/// BiDi): seen to work with Debian's in these, not in 1.65.
const STOCK_FIREFOX_CHANNEL: &str = "moz-firefox";
const STOCK_FIREFOX: std::ops::RangeInclusive<u16> = 62..=64;

impl Toolchain {
    /// The same with the version that the package has at this moment: it may have been upgraded in place, and
    /// the next server will be of the new one.
    pub fn reread(&self) -> Toolchain {
        let mut toolchain = self.clone();
        if let Ok((release, version)) = read_version(&self.playwright) {
            toolchain.release = release;
            toolchain.version = version;
        }
        toolchain
    }

    /// The same with another build of the browser.
    ///
    /// # Errors
    ///
    /// It is not on this machine.
    pub fn of_channel(&self, name: &str) -> Result<Toolchain, MissingChannel> {
        let browser = self.browser;
        let known = CHANNELS.iter().find(|(channel, _)| *channel == name);
        let known = known.filter(|_| browser == Browser::Chromium);
        let Some(&(channel, path)) = known else {
            return Err(MissingChannel { browser });
        };
        let executable = executable(Path::new(path));
        let by_playwright = match channel {
            "chromium" => downloaded(browser, false, &self.playwright),
            "chromium-headless-shell" => downloaded(browser, true, &self.playwright),
            _ => false,
        };
        if executable.is_none() && !by_playwright {
            return Err(MissingChannel { browser });
        }
        Ok(Toolchain {
            executable,
            channel: Some(channel),
            ..self.clone()
        })
    }

    /// Whether Playwright and its browser talk over a TCP port of this machine, which the browser
    /// opens, in the place of a pipe.
    pub fn is_driven_over_a_port(&self) -> bool {
        self.channel == Some(STOCK_FIREFOX_CHANNEL)
    }
}

/// Finds everything that `settings` needs.
pub fn locate(settings: &config::Worker) -> Result<Toolchain, MissingTool> {
    let playwright = match &settings.playwright {
        Some(path) => package_in(path).ok_or_else(|| MissingTool::NotPlaywright {
            path: path.clone(),
            problem: "there is no cli.js".to_owned(),
        })?,
        None => find_playwright(&starting_points())?,
    };
    let (release, version) = read_version(&playwright)?;
    let node = find_node(settings.node.as_deref(), &playwright)?;
    let (executable, channel) = find_browser(settings, &playwright, version)?;
    let recorder = recorder::find(&playwright);
    if recorder == Recorder::Nobody {
        log::warn!(
            "clients cannot record videos here: there is no ffmpeg (apt-get install ffmpeg, or npx \
             playwright install ffmpeg)"
        );
    }
    Ok(Toolchain {
        recorder,
        node,
        playwright,
        release,
        version,
        browser: settings.browser,
        executable,
        channel,
    })
}

/// The package at or below a folder: npm's layout and that of Python's wheel.
fn package_in(folder: &Path) -> Option<PathBuf> {
    [
        "",
        "package",
        "driver/package",
        "playwright/driver/package",
        "node_modules/playwright-core",
    ]
    .iter()
    .map(|below| folder.join(below))
    .find(|package| package.join("cli.js").is_file() && package.join("package.json").is_file())
}

/// The current directory, and the folders above the executable: a checkout's `target/debug` is
/// two below the checkout.
pub(super) fn starting_points() -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = std::env::current_dir().into_iter().collect();
    if let Ok(executable) = std::env::current_exe() {
        points.extend(executable.ancestors().skip(1).take(4).map(PathBuf::from));
    }
    points.dedup();
    points
}

fn find_playwright(points: &[PathBuf]) -> Result<PathBuf, MissingTool> {
    for point in points {
        if let Some(package) = newest_tool(&point.join(".tools")) {
            return Ok(package);
        }
        let installed = point.join("node_modules/playwright-core");
        if let Some(package) = package_in(&installed) {
            return Ok(package);
        }
    }
    for global in ["/usr/local/lib", "/usr/lib"] {
        if let Some(package) = package_in(Path::new(global)) {
            return Ok(package);
        }
    }
    let looked: Vec<String> = points
        .iter()
        .map(|point| point.display().to_string())
        .collect();
    Err(MissingTool::Playwright {
        looked: format!(
            ".tools and node_modules of {} and in the global node_modules",
            looked.join(", ")
        ),
    })
}

/// The newest of `.tools/playwright-<version>`.
fn newest_tool(tools: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(tools).ok()?;
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("playwright-")
        })
        .filter_map(|entry| package_in(&entry.path()))
        .filter_map(|package| Some((read_version(&package).ok()?.1, package)))
        .max()
        .map(|(_, package)| package)
}

fn read_version(package: &Path) -> Result<(String, Version), MissingTool> {
    let refuse = |problem: String| MissingTool::NotPlaywright {
        path: package.to_owned(),
        problem,
    };
    let text = std::fs::read_to_string(package.join("package.json"))
        .map_err(|error| refuse(error.to_string()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let release = json["version"].as_str().unwrap_or_default().to_owned();
    let version = release.parse().map_err(refuse)?;
    Ok((release, version))
}

fn find_node(setting: Option<&Path>, playwright: &Path) -> Result<PathBuf, MissingTool> {
    if let Some(path) = setting {
        return executable(path).ok_or_else(|| MissingTool::NotExecutable {
            path: path.to_owned(),
            setting: "worker.node",
        });
    }
    let beside = playwright.parent().map(|parent| parent.join("node"));
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join("node"))
            .collect::<Vec<_>>()
    });
    beside
        .into_iter()
        .chain(on_path)
        .find_map(|candidate| executable(&candidate))
        .ok_or(MissingTool::Node)
}

fn find_browser(
    settings: &config::Worker,
    playwright: &Path,
    version: Version,
) -> Result<(Option<PathBuf>, Option<&'static str>), MissingTool> {
    let browser = settings.browser;
    let stock_firefox = version.major == 1 && STOCK_FIREFOX.contains(&version.minor);
    let channel = (browser == Browser::Firefox && stock_firefox).then_some(STOCK_FIREFOX_CHANNEL);
    if let Some(path) = &settings.browser_path {
        let path = behind_wrapper(path);
        return match executable(&path) {
            Some(path) => Ok((Some(path), channel)),
            None => Err(MissingTool::NotExecutable {
                path,
                setting: "worker.browser_path (PLAYHOUSE_BROWSER_PATH)",
            }),
        };
    }
    let own = (downloaded(browser, settings.headless, playwright)).then_some((None, None));
    let first_of = |places: &[&str]| places.iter().find_map(|place| executable(Path::new(place)));
    let found = match browser {
        // Only the full browsers can show a window.
        Browser::Chromium => {
            let places = if settings.headless {
                &CHROMIUM[..]
            } else {
                &CHROMIUM[1..]
            };
            first_of(places).map(|path| (Some(path), None)).or(own)
        }
        Browser::Firefox => own.or_else(|| {
            channel?;
            first_of(&FIREFOX).map(|path| (Some(path), channel))
        }),
        Browser::Webkit => own,
    };
    found.ok_or_else(|| MissingTool::Browser {
        browser,
        how: how_to_get(browser, version, stock_firefox),
    })
}

fn how_to_get(browser: Browser, version: Version, stock_firefox: bool) -> String {
    match browser {
        Browser::Chromium => {
            "Install it (apt-get install chromium-headless-shell), run `make setup`".to_owned()
        }
        Browser::Firefox if stock_firefox => "Install it (apt-get install firefox-esr)".to_owned(),
        Browser::Firefox => format!(
            "Playwright {version} needs its own build (npx playwright install firefox); a stock \
             Firefox works with Playwright 1.{} to 1.{}",
            STOCK_FIREFOX.start(),
            STOCK_FIREFOX.end()
        ),
        Browser::Webkit => "Install it (npx playwright install --with-deps webkit)".to_owned(),
    }
}

/// Debian's `/usr/bin/chromium…` are shell scripts in front of the executable of the same name.
fn behind_wrapper(path: &Path) -> PathBuf {
    let real = path
        .strip_prefix("/usr/bin")
        .ok()
        .map(|name| Path::new("/usr/lib/chromium").join(name));
    match real {
        Some(real) if executable(&real).is_some() => real,
        _ => path.to_owned(),
    }
}

/// Whether Playwright downloaded this browser in the revision that this package wants.
fn downloaded(browser: Browser, headless: bool, playwright: &Path) -> bool {
    let name = match browser {
        Browser::Chromium if headless => "chromium-headless-shell",
        other => other.as_str(),
    };
    let folder = browser_revision(playwright, name)
        .map(|revision| format!("{}-{revision}", name.replace('-', "_")));
    let (Some(root), Some(folder)) = (browsers_root(), folder) else {
        return false;
    };
    root.join(folder).join("INSTALLATION_COMPLETE").is_file()
}

/// Where Playwright keeps what it downloads.
pub(super) fn browsers_root() -> Option<PathBuf> {
    std::env::var_os("PLAYWRIGHT_BROWSERS_PATH")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ms-playwright")))
}

/// The revision of a program that this package wants.
pub(super) fn browser_revision(playwright: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(playwright.join("browsers.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let entry = json["browsers"]
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == name)?;
    entry["revision"].as_str().map(str::to_owned)
}

/// The path, when it is a file that may be executed.
fn executable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path, version: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("cli.js"), "").unwrap();
        let json = format!(r#"{{"name":"playwright-core","version":"{version}"}}"#);
        std::fs::write(folder.join("package.json"), json).unwrap();
    }

    #[test]
    fn takes_the_newest_package_of_a_checkout() {
        let checkout = tempfile::tempdir().unwrap();
        for version in ["1.9.1", "1.65.1", "1.64.0"] {
            let folder = format!(".tools/playwright-{version}/playwright/driver/package");
            package(&checkout.path().join(folder), version);
        }
        let found = find_playwright(&[checkout.path().to_owned()]).unwrap();
        assert_eq!(read_version(&found).unwrap().0, "1.65.1");
    }

    #[test]
    fn finds_what_npm_installed() {
        let project = tempfile::tempdir().unwrap();
        let folder = project.path().join("node_modules/playwright-core");
        package(&folder, "1.63.2");
        assert_eq!(
            find_playwright(&[project.path().to_owned()]).unwrap(),
            folder
        );
    }

    #[test]
    fn says_where_it_looked_and_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let error = MissingTool::Playwright {
            looked: empty.path().display().to_string(),
        };
        let text = error.to_string();
        assert!(
            text.contains("make setup") && text.contains("PLAYHOUSE_PLAYWRIGHT"),
            "{text}"
        );
    }

    #[test]
    fn refuses_a_package_whose_version_is_no_version() {
        let folder = tempfile::tempdir().unwrap();
        package(folder.path(), "next");
        assert!(matches!(
            read_version(folder.path()),
            Err(MissingTool::NotPlaywright { .. })
        ));
    }

    #[test]
    fn node_of_the_wheel_is_preferred_to_the_one_on_the_path() {
        use std::os::unix::fs::PermissionsExt;
        let driver = tempfile::tempdir().unwrap();
        package(&driver.path().join("package"), "1.65.1");
        let node = driver.path().join("node");
        std::fs::write(&node, "").unwrap();
        std::fs::set_permissions(&node, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(
            find_node(None, &driver.path().join("package")).unwrap(),
            node
        );
    }
}
