//! The Lua scripts, compiled in. Each `.lua` file says what it takes, returns, and why it has to
//! be atomic; this file only puts the key names and the prelude before it.
//!
//! Scripts are called by their hash. Every new connection loads them all, so the fallback of
//! [`redis::ScriptInvocation`], which loads a script that Redis does not know, is for a
//! `SCRIPT FLUSH` only.

use super::connection::Connection;
use super::keys::Keys;
use redis::Script;

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts of one grid, each named like its file.
        pub struct Scripts {
            $(pub $name: Script,)*
            sources: Vec<String>,
        }

        impl Scripts {
            pub fn new(keys: &Keys) -> Scripts {
                let begin = format!("{}{}", keys.lua_names(), include_str!("lua/prelude.lua"));
                $(let $name = concat!("\n", include_str!(concat!("lua/", stringify!($name), ".lua")));)*
                $(let $name = format!("{begin}{}", $name);)*
                Scripts {
                    $($name: Script::new(&$name),)*
                    sources: vec![$($name),*],
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
    recycle_in_turn,
    register,
    release,
    reseat,
    reserve,
    restore,
    sweep,
    unseat
);

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

impl Scripts {
    /// Loads every script in one round trip.
    pub async fn load(&self, connection: &mut Connection) -> redis::RedisResult<()> {
        let mut pipeline = redis::pipe();
        for source in &self.sources {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(source).ignore();
        }
        pipeline.exec_async(connection).await
    }
}
