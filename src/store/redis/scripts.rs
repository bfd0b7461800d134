//! The Lua scripts, compiled in. Each `.lua` file says what it takes, returns, and why it has to
//! be atomic; this file only puts the key names and the prelude before it.
//!
//! Scripts are called by their hash. One that Redis does not know yet is loaded by the call that needs
//! it ([`redis::ScriptInvocation`]), once for all connections: a worker never loads those of proxies,
//! and when a thousand come back at once, they do not bring a thousand copies.
//!
//! Of the prelude a script gets what it uses: Redis makes every function of it anew in each call.

use super::keys::Keys;
use redis::Script;

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts of one grid, each named like its file.
        pub struct Scripts {
            $(pub $name: Script,)*
        }

        impl Scripts {
            pub fn new(keys: &Keys) -> Scripts {
                let names = keys.lua_names();
                Scripts {
                    $($name: Script::new(&source(
                        &names,
                        concat!("\n", include_str!(concat!("lua/", stringify!($name), ".lua"))),
                    )),)*
                }
            }
        }
    };
}

scripts!(
    adopt,
    answer,
    ask,
    beat,
    bye,
    changes,
    count_recycle,
    deregister,
    discover,
    fleet,
    heartbeat,
    hello,
    index,
    line,
    mend,
    reap,
    recycle,
    recycle_in_turn,
    register,
    release,
    reseat,
    reserve,
    restore,
    sweep,
    take_warm_up,
    unseat,
    use_quota
);

const PRELUDE: &str = include_str!("lua/prelude.lua");

/// A script with the key names and those parts of the prelude that it needs. The parts are what
/// stands between empty lines; each may use those before it.
fn source(names: &str, script: &str) -> String {
    let mut needed = script.to_owned();
    let mut parts: Vec<&str> = PRELUDE.split("\n\n").collect();
    parts.reverse();
    parts.retain(|part| {
        let is_used = defined(part).any(|name| uses(&needed, name));
        if is_used {
            needed.push_str(part);
        }
        is_used
    });
    parts.reverse();
    format!("{names}{}\n{script}", parts.join("\n\n"))
}

/// The names that a part of the prelude defines.
fn defined(part: &str) -> impl Iterator<Item = &str> {
    part.lines().filter_map(|line| {
        let rest = line.strip_prefix("local ")?;
        let rest = rest.strip_prefix("function ").unwrap_or(rest);
        rest.split(|c: char| !is_of_name(c)).next()
    })
}

fn uses(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + name.len()..].chars().next();
        !before.is_some_and(is_of_name) && !behind.is_some_and(is_of_name)
    })
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_gets_what_it_uses_and_what_that_uses() {
        let source = source("", "strike(ARGV[1])");
        for needed in ["strike", "rise", "now", "call"] {
            assert!(defined(&source).any(|name| name == needed), "{needed}");
        }
        for name in ["give_back", "feel_pulse", "GRACE"] {
            assert!(!defined(&source).any(|defined| defined == name), "{name}");
        }
        assert!(source.find("local call") < source.find("local function now"));
    }
}
