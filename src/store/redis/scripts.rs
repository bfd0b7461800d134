//! The Lua scripts, compiled in. Each `.lua` file says what it takes, returns, and why it has to
//! be atomic; this file only puts the key names and the prelude before it.
//!
//! Scripts are called by their hash. Every new connection loads them all, so the fallback of
//! [`redis::ScriptInvocation`], which loads a script that Redis does not know, is for a
//! `SCRIPT FLUSH` only.

use super::keys::Keys;
use redis::Script;
use redis::aio::MultiplexedConnection;

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

impl Scripts {
    /// Loads every script in one round trip.
    pub async fn load(&self, connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
        let mut pipeline = redis::pipe();
        for source in &self.sources {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(source).ignore();
        }
        pipeline.exec_async(connection).await
    }
}
