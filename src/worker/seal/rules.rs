//! Which files a sealed browser may touch, and how. Pure but for links, which are followed.
//!
//! Landlock's rules are lists of what is allowed: a folder in them stands for everything below it.
//! Who may walk through a folder is not asked, so that none of the folders above are here.

use crate::config;
use crate::model::Browser;
use crate::worker::recorder::Recorder;
use crate::worker::sandbox;
use crate::worker::toolchain::{Toolchain, browsers_root};
use landlock::{Access, AccessFs, BitFlags};
use std::path::{Path, PathBuf};

/// Programs and libraries, and the data that they come with. Not `/usr` as a whole: people keep
/// sources and settings below it.
const PROGRAMS: [&str; 18] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/share",
    "/nix/store",
];

/// What programs read of a system: linker, name service, users' names, time, certificates, fonts,
/// looks, and a browser's own policies.
const SYSTEM: [&str; 42] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/chromium",
    "/etc/chromium.d",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/drirc",
    "/etc/firefox",
    "/etc/firefox-esr",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/gtk-3.0",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/opt/chrome",
    "/etc/os-release",
    "/etc/pango",
    "/etc/passwd",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/etc/vulkan",
    "/run/NetworkManager/resolv.conf",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/var/cache/fontconfig",
];

/// What the kernel tells about the machine, and about nobody's process.
const KERNEL: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/proc/vmstat",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    // The container's limits, by which Node sizes its heap.
    "/sys/fs/cgroup",
];

const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// A graphics card, where the browser is to show a window.
const GRAPHICS: [&str; 2] = ["/dev/dri", "/dev/nvidia0"];
const ABOUT_GRAPHICS: [&str; 4] = [
    "/sys/bus/pci",
    "/sys/class/drm",
    "/sys/dev/char",
    "/sys/devices",
];

/// What lies beside the executables of Chromium, of its headless shell, of Firefox, and of
/// Playwright's WebKit.
const BROWSERS_DATA: [&str; 4] = [
    "icudtl.dat",
    "headless_command_resources.pak",
    "application.ini",
    "pw_run.sh",
];

/// Variables that are passed on and name files or folders to read.
const NAMING_FILES: [&str; 7] = [
    "FONTCONFIG_FILE",
    "FONTCONFIG_PATH",
    "LD_LIBRARY_PATH",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "XAUTHORITY",
];

/// What may be done to a file, or to everything below a folder.
pub struct Rule {
    pub path: PathBuf,
    pub access: BitFlags<AccessFs>,
}

/// Everything that one server, whose own folder is `folder`, and its browser may touch.
pub fn of(toolchain: &Toolchain, settings: &config::Worker, folder: &Path) -> Vec<Rule> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let run = read | AccessFs::Execute;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    // No program of a session's own is run.
    let write = AccessFs::from_all(super::WANTED) & !BitFlags::from(AccessFs::Execute);
    let mut rules = vec![Rule {
        path: folder.to_owned(),
        access: write,
    }];
    let mut add = |access: BitFlags<AccessFs>, paths: Vec<PathBuf>| {
        rules.extend(paths.into_iter().map(|path| Rule { path, access }));
    };
    let all = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    add(run, all(&PROGRAMS));
    add(run, tools(toolchain));
    add(read, all(&SYSTEM));
    add(read, all(&KERNEL));
    add(read, named_files());
    // With the right to run: it may be what a script in a browser's or Node's place starts.
    add(run, settings.readable.clone());
    add(device, all(&DEVICES));
    // Chromium insists on opening the folder. It lists the processes there are, and nothing of them.
    add(AccessFs::ReadDir.into(), all(&["/proc"]));
    if needs_own_maps(settings.browser) {
        add(read, all(&["/proc"]));
    }
    let is_chromium = settings.browser == Browser::Chromium;
    let own_sandbox = !is_chromium || sandbox::is_on(settings.sandbox);
    if own_sandbox && !nix::unistd::geteuid().is_root() {
        // A process of a browser's own sandbox writes its `uid_map`, whatever its id will be. Nothing
        // that a session makes Node or a browser write is opened without truncating or renaming,
        // for which there is no right.
        add(AccessFs::WriteFile.into(), all(&["/proc"]));
    }
    if !settings.headless {
        add(device | AccessFs::ReadDir, all(&GRAPHICS));
        add(read, all(&ABOUT_GRAPHICS));
    }
    if !is_chromium {
        // Chromium is told to do without.
        add(write, all(&["/dev/shm"]));
    }
    rules
}

/// Whether a browser dies when its processes cannot read their own `/proc/self/maps`. A rule for that
/// cannot be written before they are there, so that it has to be all of `/proc`; what is told there
/// of other processes is then kept from a sealed one by the kernel's rules for debuggers, or not.
pub fn needs_own_maps(browser: Browser) -> bool {
    browser != Browser::Chromium
}

/// Node, Playwright, and the browser with what lies beside it.
fn tools(toolchain: &Toolchain) -> Vec<PathBuf> {
    let mut tools = vec![real(&toolchain.node), real(&toolchain.playwright)];
    tools.extend(browsers_root());
    if let Recorder::Another(ffmpeg) = &toolchain.recorder {
        tools.push(real(ffmpeg));
    }
    if let Some(executable) = &toolchain.executable {
        let executable = real(executable);
        let beside = executable.parent().filter(|folder| is_a_browsers(folder));
        tools.push(beside.unwrap_or(&executable).to_owned());
    }
    tools
}

/// Whether a folder is one that a browser has for itself: its data are in it. Beside a script that
/// starts a browser there may be anything.
fn is_a_browsers(folder: &Path) -> bool {
    BROWSERS_DATA.iter().any(|name| folder.join(name).exists())
}

fn named_files() -> Vec<PathBuf> {
    let named = NAMING_FILES.iter().filter_map(std::env::var_os);
    named
        .flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>())
        .filter(|path| path.is_absolute() && path.components().count() > 1)
        .collect()
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
