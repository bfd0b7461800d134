//! The Lua scripts, compiled in. Each `.lua` file says what it takes, returns, and why it has to
//! be atomic; this file only puts the key names, the figures and the prelude before it.
//!
//! Scripts are called by their hash. One that Redis does not know yet is loaded by the call that needs
//! it ([`redis::ScriptInvocation`]), once for all connections: a worker never loads those of proxies,
//! and when a thousand come back at once, they do not bring a thousand copies.
//!
//! Of all that a script gets what it uses: Redis makes all of it anew in each
//! call.

use super::connection::Connection;
use super::constants::lua_constants;
use super::keys::Keys;
use redis::Script;
use std::sync::Arc;
#[cfg(test)]
use std::sync::LazyLock;

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts of one grid, each named like its file.
        pub struct Scripts {
            $(pub $name: Script,)*
        }

        impl Scripts {
            fn new(keys: &Keys) -> Scripts {
                let names = keys.lua_names();
                Scripts {
                    $($name: Script::new(&source(
                        &names,
                        include_str!(concat!("lua/", stringify!($name), ".lua")),
                    )),)*
                }
            }
        }
    };
}

scripts!(
    adopt,
    announce,
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
    hold,
    index,
    line,
    mend,
    reap,
    recycle,
    recycle_with_permit,
    register,
    release,
    reseat,
    reserve,
    restore,
    sweep,
    told,
    unseat
);

impl Scripts {
    /// Those of a grid. In unit tests those of the simulated one are made once: it starts processes by the thousand.
    pub fn of(keys: &Keys) -> Arc<Scripts> {
        #[cfg(test)]
        {
            static SIMULATED: LazyLock<Arc<Scripts>> =
                LazyLock::new(|| Arc::new(Scripts::new(&Keys::new(None, 0))));
            if keys.lua_names() == Keys::new(None, 0).lua_names() {
                return SIMULATED.clone();
            }
        }
        Arc::new(Scripts::new(keys))
    }
}

const PRELUDE: &str = concat!(
    include_str!("lua/prelude.lua"),
    "\n",
    include_str!("lua/proxies.lua")
);

/// The source of a script. What it changes is told at its end, whichever of its ends that is.
fn source(names: &[(&str, String)], script: &str) -> String {
    let plain = with_prelude(names, script);
    if !has_word(&plain, "risen") {
        return plain;
    }
    let telling = format!(
        "local function script()\n\n{script}\nend\n\n\
         local answer = script()\npublish_changes()\nreturn answer\n"
    );
    with_prelude(names, &telling)
}

/// A script behind those names of keys, those figures and those parts of the prelude that it needs. A part is what
/// stands between empty lines; it may use those above it.
fn with_prelude(names: &[(&str, String)], script: &str) -> String {
    let mut text = script.to_owned();
    for part in PRELUDE.split("\n\n").collect::<Vec<_>>().into_iter().rev() {
        if defined_by(part).any(|name| has_word(&text, name)) {
            text = format!("{}\n\n{text}", part.trim_end());
        }
    }
    let used = names
        .iter()
        .filter(|(name, _)| has_word(&text, &format!("K.{name}")));
    let table: Vec<String> = used.map(|(name, key)| format!("{name}='{key}'")).collect();
    let figures: String = lua_constants()
        .into_iter()
        .filter(|(name, _)| has_word(&text, name))
        .map(|(name, value)| format!("local {name}={value} "))
        .collect();
    format!("{figures}local K={{{}}}\n{text}", table.join(","))
}

/// The names that a part of the prelude defines.
fn defined_by(part: &str) -> impl Iterator<Item = &str> {
    part.lines().filter_map(|line| {
        let rest = line.strip_prefix("local ")?;
        let rest = rest.strip_prefix("function ").unwrap_or(rest);
        rest.split(|c: char| !is_of_word(c)).next()
    })
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + word.len()..].chars().next();
        !before.is_some_and(is_of_word) && !behind.is_some_and(is_of_word)
    })
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A script that says nothing but which grid it is for. Redis forgets scripts when it starts, and
/// keeps them from its replicas: where the mark of a grid is gone, it is another server that has
/// the grid's keys, or one that was started since, and what it has may be old.
fn mark_of(grid: &str) -> Script {
    Script::new(&format!("return 'playhouse grid {grid}'"))
}

/// Marks the server that answers as the one that has this grid.
pub async fn mark(connection: &mut Connection, grid: &str) -> redis::RedisResult<()> {
    mark_of(grid).load_async(connection).await.map(|_| ())
}

/// Whether the server that answers was marked, and has not been started since.
pub async fn has_mark(connection: &mut Connection, grid: &str) -> redis::RedisResult<bool> {
    let mut exists = redis::cmd("SCRIPT");
    exists.arg("EXISTS").arg(mark_of(grid).get_hash());
    let found: Vec<u8> = exists.query_async(connection).await?;
    Ok(found == [1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_changes_is_told_at_its_end() {
        let told = source(
            &[],
            "if full then return 0 end\nchange(ARGV[1], 1, 1)\nreturn 1",
        );
        assert!(
            told.ends_with("publish_changes()\nreturn answer\n"),
            "{told}"
        );
        let read = source(&[], "return count(K.active, ARGV[1])");
        assert!(!read.contains("publish_changes"), "{read}");
    }

    #[test]
    fn a_script_gets_what_it_uses_and_what_that_uses() {
        let keys = ["silent", "revision", "grid", "lifetime", "proxies"];
        let names = keys.map(|key| (key, format!("the {key}")));
        let source = with_prelude(&names, "remove_worker(ARGV[1])");
        let all: Vec<&str> = defined_by(&source).collect();
        for name in [
            "call",
            "now",
            "count",
            "rise",
            "begin_anew",
            "remove_worker",
        ] {
            assert!(all.contains(&name), "{name} is not in {all:?}");
        }
        for name in ["give_back", "feel_pulse", "FENCED"] {
            assert!(!all.contains(&name), "{name} is in {all:?}");
        }
        let table = source.lines().next().unwrap();
        assert!(table.contains("local SILENT_TTL=86400000 "), "{table}");
        assert!(!table.contains("STRIDE"), "{table}");
        assert!(table.contains("silent='the silent'"), "{table}");
        assert!(!table.contains("proxies"), "{table}");
    }
}
