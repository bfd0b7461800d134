//! Which arguments and preferences of a browser are harmless to the machine that it runs on and to others:
//! they open no port, name no file, load no extension, start no program, and take nothing from the
//! sandbox. What they do to the pages of their own session is the client's affair.
//!
//! Chromium has some 1,500 arguments and gets others with every release, so that the harmless ones are
//! listed, and not the others. Of Firefox's preferences, far more, nearly all are harmless: there it is
//! the other way round.

use super::is_plain;
use crate::model::Browser;
use serde_json::Value;

/// Harmless ones of Chromium, with any value that names no file.
const CHROMIUM: &[&str] = &[
    "accept-lang",
    "aggressive-cache-discard",
    "allow-insecure-localhost",
    "allow-pre-commit-input",
    "allow-running-insecure-content",
    "animation-duration-scale",
    "auto-accept-camera-and-microphone-capture",
    "auto-accept-this-tab-capture",
    "auto-open-devtools-for-tabs",
    "auto-select-desktop-capture-source",
    "auto-select-tab-capture-source-by-title",
    "auto-select-window-capture-source-by-title",
    "autoplay-policy",
    "blink-settings",
    "block-new-web-contents",
    "default-background-color",
    "deny-permission-prompts",
    "deterministic-mode",
    "disable-2d-canvas-clip-aa",
    "disable-3d-apis",
    "disable-accelerated-2d-canvas",
    "disable-accelerated-mjpeg-decode",
    "disable-accelerated-video-decode",
    "disable-accelerated-video-encode",
    "disable-audio-input",
    "disable-audio-output",
    "disable-back-forward-cache",
    "disable-background-media-suspend",
    "disable-background-networking",
    "disable-background-timer-throttling",
    "disable-backgrounding-occluded-windows",
    "disable-backing-store-limit",
    "disable-blink-features",
    "disable-breakpad",
    "disable-checker-imaging",
    "disable-client-side-phishing-detection",
    "disable-component-extensions-with-background-pages",
    "disable-component-update",
    "disable-composited-antialiasing",
    "disable-crash-reporter",
    "disable-databases",
    "disable-default-apps",
    "disable-desktop-notifications",
    "disable-dev-shm-usage",
    "disable-domain-reliability",
    "disable-extensions",
    "disable-features",
    "disable-field-trial-config",
    "disable-font-subpixel-positioning",
    "disable-geolocation",
    "disable-gl-drawing-for-tests",
    "disable-gpu",
    "disable-gpu-compositing",
    "disable-gpu-early-init",
    "disable-gpu-program-cache",
    "disable-gpu-rasterization",
    "disable-gpu-shader-disk-cache",
    "disable-gpu-vsync",
    "disable-hang-monitor",
    "disable-histogram-customizer",
    "disable-http2",
    "disable-image-animation-resync",
    "disable-infobars",
    "disable-ipc-flooding-protection",
    "disable-javascript-harmony-shipping",
    "disable-lcd-text",
    "disable-local-storage",
    "disable-low-res-tiling",
    "disable-new-content-rendering-timeout",
    "disable-notifications",
    "disable-origin-trial-controlled-blink-features",
    "disable-partial-raster",
    "disable-password-generation",
    "disable-permissions-api",
    "disable-phishing-detection",
    "disable-pinch",
    "disable-popup-blocking",
    "disable-presentation-api",
    "disable-print-preview",
    "disable-prompt-on-repost",
    "disable-quic",
    "disable-reading-from-canvas",
    "disable-remote-fonts",
    "disable-renderer-accessibility",
    "disable-renderer-backgrounding",
    "disable-save-password-bubble",
    "disable-scroll-to-text-fragment",
    "disable-search-engine-choice-screen",
    "disable-session-crashed-bubble",
    "disable-shared-workers",
    "disable-single-click-autofill",
    "disable-site-isolation-trials",
    "disable-skia-runtime-opts",
    "disable-smooth-scrolling",
    "disable-software-rasterizer",
    "disable-speech-api",
    "disable-speech-synthesis-api",
    "disable-sync",
    "disable-threaded-animation",
    "disable-threaded-compositing",
    "disable-threaded-scrolling",
    "disable-translate",
    "disable-vsync-for-tests",
    "disable-web-security",
    "disable-webgl",
    "disable-webgl2",
    "disable-webrtc-hw-decoding",
    "disable-webrtc-hw-encoding",
    "disable-yuv-image-decoding",
    "disable-zero-copy",
    "disk-cache-size",
    "dns-prefetch-disable",
    "enable-accelerated-2d-canvas",
    "enable-async-dns",
    "enable-automation",
    "enable-begin-frame-control",
    "enable-blink-features",
    "enable-blink-test-features",
    "enable-experimental-web-platform-features",
    "enable-experimental-webassembly-features",
    "enable-features",
    "enable-font-antialiasing",
    "enable-font-subpixel-positioning",
    "enable-gpu",
    "enable-gpu-rasterization",
    "enable-ipv6",
    "enable-lcd-text",
    "enable-low-end-device-mode",
    "enable-network-information-downlink-max",
    "enable-precise-memory-info",
    "enable-quic",
    "enable-smooth-scrolling",
    "enable-strict-mixed-content-checking",
    "enable-surface-synchronization",
    "enable-unsafe-swiftshader",
    "enable-unsafe-webgpu",
    "enable-use-zoom-for-dsf",
    "enable-usermedia-screen-capturing",
    "enable-viewport",
    "enable-webgl",
    "enable-webgl-developer-extensions",
    "enable-webgl-draft-extensions",
    "enable-webgl-image-chromium",
    "enable-webgl2-compute-context",
    "enable-webrtc-hide-local-ips-with-mdns",
    "enable-zero-copy",
    "export-tagged-pdf",
    "font-render-hinting",
    "force-color-profile",
    "force-dark-mode",
    "force-device-scale-factor",
    "force-effective-connection-type",
    "force-gpu-mem-available-mb",
    "force-high-contrast",
    "force-prefers-no-reduced-motion",
    "force-prefers-reduced-motion",
    "force-prefers-reduced-transparency",
    "force-raster-color-profile",
    "force-renderer-accessibility",
    "force-text-direction",
    "force-ui-direction",
    "force-webrtc-ip-handling-policy",
    "generate-pdf-document-outline",
    "headless",
    "hide-crash-restore-bubble",
    "hide-scrollbars",
    "high-dpi-support",
    "host-resolver-rules",
    "host-rules",
    "ignore-autoplay-restrictions",
    "ignore-certificate-errors",
    "ignore-certificate-errors-spki-list",
    "ignore-gpu-blacklist",
    "ignore-gpu-blocklist",
    "ignore-urlfetcher-cert-requests",
    "incognito",
    "isolate-origins",
    "js-flags",
    "kiosk",
    "lang",
    "max-active-webgl-contexts",
    "media-cache-size",
    "metrics-recording-only",
    "mute-audio",
    "no-default-browser-check",
    "no-experiments",
    "no-first-run",
    "no-pings",
    "no-proxy-server",
    "no-referrers",
    "no-service-autorun",
    "no-startup-window",
    "num-raster-threads",
    "origin-to-force-quic-on",
    "password-store",
    "process-per-site",
    "process-per-tab",
    "proxy-bypass-list",
    "proxy-server",
    "renderer-process-limit",
    "run-all-compositor-stages-before-draw",
    "safebrowsing-disable-auto-update",
    "safebrowsing-disable-download-protection",
    "site-per-process",
    "ssl-version-max",
    "ssl-version-min",
    "start-fullscreen",
    "start-maximized",
    "test-type",
    "touch-events",
    "unsafely-treat-insecure-origin-as-secure",
    "use-angle",
    "use-fake-device-for-media-stream",
    "use-fake-ui-for-media-stream",
    "use-gl",
    "use-mock-keychain",
    "use-webgpu-adapter",
    "user-agent",
    "webrtc-ip-handling-policy",
    "webrtc-max-cpu-consumption-percentage",
    "window-position",
    "window-size",
];

/// Harmless ones of Firefox.
const FIREFOX: &[&str] = &["headless", "kiosk", "private"];

/// What V8 may be told (`--js-flags`). Others of its flags write files.
const V8: &[&str] = &[
    "expose-gc",
    "jitless",
    "max-old-space-size",
    "stack-size",
    "random-seed",
];

/// Preferences of Firefox that are not harmless, by what their names begin with: they open ports for
/// debuggers, lower the sandbox, load extensions and settings, write logs and files, or start other programs.
const PREFERENCES: &[&str] = &[
    "app.update.",
    "autoadmin.",
    "browser.cache.disk.parent_directory",
    "browser.download.",
    "browser.helperapps.",
    "capability.policy.",
    "devtools.",
    "dom.ipc.plugins.",
    "extensions.",
    "fission.",
    "general.config.",
    "helpers.",
    "logging.",
    "marionette.",
    "media.gmp",
    "network.protocol-handler.",
    "print.",
    "print_printer",
    "profiler.",
    "remote.",
    "security.fileuri.",
    "security.sandbox.",
    "toolkit.crashreporter.",
    "xpinstall.",
];

/// Names that are refused whatever the configuration allows, by what they begin with: a worker drives its
/// browser over a pipe and keeps its profile in a folder of its own.
const NEVER: &[&str] = &["remote-debugging", "user-data-dir"];

/// Whether a text is the name of an argument, without dashes.
pub fn is_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(of_name)
}

/// Whether no client may have an argument, whoever lists it.
pub fn is_never(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NEVER.iter().any(|start| name.starts_with(start))
}

/// Name and value of an argument, which Chromium takes with one dash as well as with two
/// (`base/command_line.cc`). `None` for what is none: the value of the argument before, or a page.
fn parts(argument: &str) -> Option<(&str, Option<&str>)> {
    let bare = argument.strip_prefix('-')?;
    let bare = bare.strip_prefix('-').unwrap_or(bare);
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    (is_name(name) && !is_never(name) && is_plain(argument)).then_some((name, value))
}

/// Whether an argument is one of these, with whatever value.
pub fn is_listed(argument: &str, names: &[&str]) -> bool {
    parts(argument).is_some_and(|(name, _)| names.contains(&name))
}

/// Whether any client may have an argument.
pub fn is_harmless(browser: Browser, argument: &str) -> bool {
    let Some((name, value)) = parts(argument) else {
        return false;
    };
    let known = match browser {
        Browser::Chromium => CHROMIUM,
        Browser::Firefox => FIREFOX,
        Browser::Webkit => &[],
    };
    known.contains(&name) && value.is_none_or(|value| is_harmless_value(name, value))
}

fn is_harmless_value(name: &str, value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let names_sandbox = name.ends_with("-features") && lower.contains("sandbox");
    match name {
        "js-flags" => value.split([' ', ',']).all(is_harmless_to_v8),
        _ => !names_file(&lower) && !names_sandbox,
    }
}

/// V8 takes its flags with `_` in the place of `-` too.
fn is_harmless_to_v8(flag: &str) -> bool {
    let name = flag.split('=').next().unwrap_or_default();
    let name = name.replace('_', "-");
    let name = name.trim_start_matches('-');
    flag.is_empty() || V8.contains(&name)
}

/// Whether any client may have a preference of Firefox.
pub fn is_harmless_preference(name: &str, value: &Value) -> bool {
    let name = name.to_ascii_lowercase();
    let file = value
        .as_str()
        .is_some_and(|text| names_file(&text.to_ascii_lowercase()));
    !file && !PREFERENCES.iter().any(|start| name.starts_with(start))
}

/// Whether a value, in lower case, is a path or the URL of a file.
fn names_file(value: &str) -> bool {
    let value = value.trim_start_matches(['"', '\'', ' ']);
    let starts = ["/", "~", "./", "../"];
    starts.iter().any(|start| value.starts_with(start)) || value.contains("file:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_has_nothing_that_reaches_beyond_the_browser() {
        assert!(CHROMIUM.is_sorted());
        const SUSPICIOUS: [&str; 17] = [
            "debugging",
            "dir",
            "dump",
            "extension",
            "file",
            "folder",
            "launcher",
            "load",
            "log",
            "pac",
            "path",
            "pipe",
            "plugin",
            "port",
            "prefix",
            "sandbox",
            "zygote",
        ];
        for name in CHROMIUM {
            assert!(is_name(name) && !is_never(name), "{name}");
            let word = name.split('-').find(|word| SUSPICIOUS.contains(word));
            assert_eq!(word, None, "{name}");
        }
    }
}
