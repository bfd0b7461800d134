//! The Lua scripts, compiled in. Each `.lua` file says what it takes, returns, and why it has to
//! be atomic; this file only puts the key names and the prelude before it.
//!
//! Scripts are called by their hash. Every new connection loads them all, so the fallback of
//! [`redis::ScriptInvocation`], which loads a script that Redis does not know, is for a
//! `SCRIPT FLUSH` only.

use super::keys;
use redis::Script;
use redis::aio::MultiplexedConnection;
use std::sync::LazyLock;

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts of this store, each named like its file.
        pub struct Scripts {
            $(pub $name: Script,)*
            sources: Vec<String>,
        }

        /// The one copy of them.
        pub static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
            $(let $name = source(include_str!(concat!("lua/", stringify!($name), ".lua")));)*
            Scripts {
                $($name: Script::new(&$name),)*
                sources: vec![$($name),*],
            }
        });
    };
}

scripts!(
    adopt,
    answer,
    ask,
    beat,
    bye,
    count_recycle,
    deregister,
    discover,
    fleet,
    heartbeat,
    hello,
    index,
    line,
    reap,
    recycle,
    recycle_in_turn,
    register,
    release,
    reserve,
    restore,
    sweep,
    take_warm_up,
    use_quota
);

fn source(body: &str) -> String {
    let names = keys::lua_names();
    let prelude = include_str!("lua/prelude.lua");
    format!("{names}{prelude}\n{body}")
}

/// Loads every script in one round trip.
pub async fn load(connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
    let mut pipeline = redis::pipe();
    for source in &SCRIPTS.sources {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(source).ignore();
    }
    pipeline.exec_async(connection).await
}
