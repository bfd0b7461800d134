//! What a browser server is told to start: the options of Playwright's `launchServer`, of the worker's settings
//! and of the client that the browser is for. Pure.

use super::address::ServerAddress;
use super::process::{Launch, passed_on};
use super::seal::Seal;
use super::{sandbox, tree};
use crate::config;
use crate::launch::LaunchOptions;
use crate::model::Browser;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The options as Playwright's command line reads them from a file.
pub fn of(launch: &Launch<'_>, address: &ServerAddress, folder: &Path) -> String {
    let Launch {
        toolchain,
        settings,
        options,
        ..
    } = launch;
    // What the worker says comes after what its client says.
    let mut plan = json!(options);
    plan["headless"] = settings.headless.into();
    plan["port"] = ServerAddress::to_bind().into();
    plan["wsPath"] = address.path().into();
    plan["args"] = arguments(settings, options).into();
    plan["chromiumSandbox"] = sandbox::is_on(settings.sandbox).into();
    plan["env"] = environment(launch, folder).into();
    if let Some(executable) = &toolchain.executable {
        plan["executablePath"] = executable.to_string_lossy().into();
    }
    if let Some(channel) = toolchain.channel {
        plan["channel"] = channel.into();
    }
    plan.to_string()
}

/// The arguments of a browser beyond Playwright's own.
pub fn arguments(settings: &config::Worker, options: &LaunchOptions) -> Vec<String> {
    let mut arguments = [&settings.args[..], &options.args].concat();
    if settings.browser == Browser::Chromium {
        arguments.extend(accepted_language(&arguments));
    }
    arguments
}

/// Chromium takes no language whose texts are not installed, and Debian's headless shell comes with those of
/// one. That is of no matter to pages, if they are told the language by itself.
fn accepted_language(arguments: &[String]) -> Option<String> {
    let named = |argument: &str| {
        let bare = argument.trim_start_matches('-');
        let (name, value) = bare.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let named: Vec<(String, String)> = arguments.iter().filter_map(|it| named(it)).collect();
    let is_said = named.iter().any(|(name, _)| name == "accept-lang");
    let mut languages = named.into_iter().filter(|(name, _)| name == "lang");
    let (_, language) = languages.next_back().filter(|_| !is_said)?;
    Some(format!("--accept-lang={language}"))
}

fn environment(launch: &Launch<'_>, folder: &Path) -> Map<String, Value> {
    let ours = passed_on().map(|(name, value)| (name.to_owned(), value.into()));
    let mut environment: Map<String, Value> = ours.collect();
    environment.extend(launch.options.env.clone());
    let folder = folder.to_string_lossy();
    for name in ["HOME", "TMPDIR", tree::MARKER] {
        environment.insert(name.to_owned(), folder.as_ref().into());
    }
    if launch.settings.browser == Browser::Firefox {
        // It would outlive the browser for a moment, and reports to nobody here.
        environment.insert("MOZ_CRASHREPORTER_DISABLE".to_owned(), "1".into());
        if *launch.seal != Seal::Off {
            let as_root = sandbox::firefox_as_root();
            environment.extend(as_root.map(|(name, value)| (name.into(), value.into())));
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Role};

    #[test]
    fn pages_are_told_the_language_that_the_browser_is_started_with() {
        let mut settings = Config::defaults(Role::Worker).worker;
        settings.args = vec!["--lang=fr".to_owned(), "--mute-audio".to_owned()];
        let with = |settings: &config::Worker, arguments: &[&str]| {
            let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
            super::arguments(settings, &LaunchOptions::of_arguments(arguments)).pop()
        };
        let last = |arguments: &[&str]| with(&settings, arguments).unwrap();
        assert_eq!(last(&[]), "--accept-lang=fr");
        assert_eq!(last(&["-lang=de-DE"]), "--accept-lang=de-DE");
        assert_eq!(last(&["--accept-lang=it"]), "--accept-lang=it");
        settings.browser = Browser::Firefox;
        assert_eq!(with(&settings, &[]).unwrap(), "--mute-audio");
    }
}
