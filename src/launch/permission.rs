//! Which launch options a client may have: the words of `session.launch_options`.

use super::{LaunchError, LaunchOptions, arguments, repeated};
use crate::model::{Browser, words};
use std::fmt;
use std::str::FromStr;

words! {
    /// A launch option that a grid can serve. None of them names an executable or a folder.
    pub enum OptionName ("launch option") {
        /// Arguments of the browser, those that are known to be harmless.
        Args = "args",
        /// Another build of the browser, such as `chrome`.
        Channel = "channel",
        /// The proxy of all pages.
        Proxy = "proxy",
        /// A pause between operations.
        SlowMo = "slowMo",
        /// Firefox's preferences, those that are harmless.
        FirefoxUserPrefs = "firefoxUserPrefs",
        /// Which of Playwright's arguments are left out.
        IgnoreDefaultArgs = "ignoreDefaultArgs",
        /// The browser's environment.
        Env = "env",
    }
}

/// One thing that clients may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Option(OptionName),
    /// An argument beyond the harmless ones, without its dashes; with whatever value.
    Argument(String),
}

/// A text that is no permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no launch option that can be allowed")]
pub struct UnknownPermission;

impl Permission {
    /// What clients may have unless the configuration says otherwise. Left out are `ignoreDefaultArgs`, which
    /// takes away what keeps a browser in order, and `env`, by which a program is told to load others.
    pub const DEFAULT: [Permission; 5] = [
        Permission::Option(OptionName::Args),
        Permission::Option(OptionName::Channel),
        Permission::Option(OptionName::Proxy),
        Permission::Option(OptionName::SlowMo),
        Permission::Option(OptionName::FirefoxUserPrefs),
    ];
}

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        if let Some(name) = text.strip_prefix("--") {
            let known = arguments::is_name(name) && !arguments::is_never(name);
            return match known {
                true => Ok(Permission::Argument(name.to_owned())),
                false => Err(UnknownPermission),
            };
        }
        let option = text.parse().map_err(|_| UnknownPermission)?;
        Ok(Permission::Option(option))
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Permission::Option(option) => f.pad(option.as_str()),
            Permission::Argument(name) => write!(f, "--{name}"),
        }
    }
}

impl LaunchOptions {
    /// Whether a client of this browser may have them.
    ///
    /// # Errors
    ///
    /// The first thing that it may not.
    pub fn check(&self, browser: Browser, allowed: &[Permission]) -> Result<(), LaunchError> {
        let listed = |option| allowed.contains(&Permission::Option(option));
        // An argument that is listed by itself needs no other word.
        let listed_arguments: Vec<&str> = allowed
            .iter()
            .filter_map(|permission| match permission {
                Permission::Argument(name) => Some(name.as_str()),
                Permission::Option(_) => None,
            })
            .collect();
        let mut names = self.names();
        let refused = names.find(|name| {
            !listed(*name) && (*name != OptionName::Args || listed_arguments.is_empty())
        });
        if let Some(name) = refused {
            return Err(LaunchError::Option(name.to_string()));
        }
        let harmless = |argument: &String| {
            listed(OptionName::Args) && arguments::is_harmless(browser, argument)
        };
        let refused = self.args.iter().find(|argument| {
            !harmless(argument) && !arguments::is_listed(argument, &listed_arguments)
        });
        if let Some(argument) = refused {
            let name = argument.split('=').next().unwrap_or_default();
            return Err(LaunchError::Argument(repeated(name)));
        }
        let mut preferences = self.firefox_user_prefs.iter();
        match preferences.find(|(name, value)| !arguments::is_harmless_preference(name, value)) {
            Some((name, _)) => Err(LaunchError::Preference(repeated(name))),
            None => Ok(()),
        }
    }
}
