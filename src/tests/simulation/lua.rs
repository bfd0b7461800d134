//! The scripts as they are, run by the Lua that Redis embeds, over the simulated database.

mod stack;

use super::database::{Database, Reply};
use mlua::{Function, Lua, Value, ffi};
use redis::{ErrorKind, RedisError, ServerErrorKind};
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard};

/// A change of the scripts' source that puts a bug in, for tests of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    pub name: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// One server's interpreter: its database, and the scripts that it has been told.
pub struct Vm {
    lua: Lua,
    /// Where it is, Lua knows as well: it is dropped behind that.
    database: Box<Mutex<Database>>,
    /// By their hashes.
    scripts: Mutex<BTreeMap<String, Script>>,
    bug: Option<Bug>,
}

struct Script {
    source: String,
    /// Whether the server was told of it since it was started.
    loaded: bool,
    /// Its place in Lua's registry, once it ran.
    function: Option<c_int>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Vm {
    pub fn new(bug: Option<Bug>) -> Vm {
        let lua = Lua::new();
        let database = Box::<Mutex<Database>>::default();
        install(&lua, &database).unwrap();
        Vm {
            lua,
            database,
            scripts: Mutex::default(),
            bug,
        }
    }

    pub fn database(&self) -> MutexGuard<'_, Database> {
        lock(&self.database)
    }

    /// The server starts again, which forgets its scripts. Those that ran stay compiled for when they are
    /// told of anew.
    pub fn restart(&self) {
        lock(&self.scripts).retain(|_, script| {
            script.loaded = false;
            script.function.is_some()
        });
    }

    /// Answers `SCRIPT EXISTS`.
    pub fn has(&self, hash: &str) -> redis::Value {
        let scripts = lock(&self.scripts);
        let loaded = scripts.get(hash).is_some_and(|script| script.loaded);
        redis::Value::Array(vec![redis::Value::Int(i64::from(loaded))])
    }

    /// Answers `SCRIPT LOAD`.
    pub fn load(&self, source: &str) -> redis::Value {
        let mut scripts = lock(&self.scripts);
        let known = scripts.iter_mut().find(|(_, it)| it.source == source);
        if let Some((hash, script)) = known {
            script.loaded = true;
            return redis::Value::SimpleString(hash.clone());
        }
        let hash = redis::Script::new(source).get_hash().to_owned();
        let script = Script {
            source: source.to_owned(),
            loaded: true,
            function: None,
        };
        scripts.insert(hash.clone(), script);
        redis::Value::SimpleString(hash)
    }

    fn compile(&self, source: &str) -> c_int {
        let mut text = source.to_owned();
        if let Some(bug) = self.bug.filter(|bug| text.contains(bug.from)) {
            text = text.replace(bug.from, bug.to);
        }
        let function: Function = self.lua.load(&text).into_function().unwrap();
        let mut place = 0;
        // SAFETY: the function that is the argument is on top, and is taken off.
        let put = unsafe {
            self.lua.exec_raw::<()>(function, |state| {
                place = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
            })
        };
        put.unwrap();
        place
    }

    /// What a script does, in words.
    pub fn title(&self, hash: &str) -> String {
        let scripts = lock(&self.scripts);
        let source = scripts.get(hash).map_or("", |script| &script.source);
        let mut parts = source.split("\n\n");
        let header = parts.find(|part| part.contains("-- Returns"));
        let title = header.unwrap_or_default().trim().lines().next();
        title.unwrap_or(hash).to_owned()
    }

    /// Answers `EVALSHA`.
    pub fn run(
        &self,
        hash: &str,
        keys: &[&str],
        args: &[&str],
    ) -> Result<redis::Value, RedisError> {
        let function = {
            let mut scripts = lock(&self.scripts);
            let loaded = scripts.get_mut(hash).filter(|script| script.loaded);
            let Some(Script {
                source, function, ..
            }) = loaded
            else {
                return Err(error("NOSCRIPT No matching script."));
            };
            *function.get_or_insert_with(|| self.compile(source))
        };
        let mut answer = Ok(redis::Value::Nil);
        // SAFETY: the registry has the script there, and a new call has room on its stack.
        let called = unsafe {
            self.lua.exec_raw::<()>((), |state| {
                answer = stack::run(state, function, keys, args);
            })
        };
        called.map_err(|failed| error(&format!("ERR {failed}")))?;
        answer
    }
}

/// An error as the client would have made it of Redis' words.
pub fn error(text: &str) -> RedisError {
    if text.starts_with("NOSCRIPT") {
        let kind = ErrorKind::Server(ServerErrorKind::NoScript);
        return RedisError::from((kind, "no matching script"));
    }
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
}

/// What the scripts find: `redis` and `cjson`.
fn install(lua: &Lua, database: &Mutex<Database>) -> mlua::Result<()> {
    let redis = lua.create_table()?;
    for (name, protected) in [("call", false), ("pcall", true)] {
        // SAFETY: the state is this one, and the database is dropped behind it.
        let call: Value =
            unsafe { lua.exec_raw((), |state| stack::push_call(state, database, protected))? };
        redis.raw_set(name, call)?;
    }
    let error_reply = lua.load("return function(text) return { err = text } end");
    redis.raw_set("error_reply", error_reply.eval::<Value>()?)?;
    lua.globals().raw_set("redis", redis)?;
    let cjson = lua.create_table()?;
    cjson.raw_set(
        "encode",
        lua.create_function(|_, value: Value| Ok(json(&value)?.to_string()))?,
    )?;
    lua.globals().raw_set("cjson", cjson)
}

fn json(value: &Value) -> mlua::Result<serde_json::Value> {
    Ok(match value {
        Value::Table(table) => {
            let mut object = serde_json::Map::new();
            for pair in table.pairs::<String, Value>() {
                let (key, value) = pair?;
                object.insert(key, json(&value)?);
            }
            object.into()
        }
        other => other.to_string()?.into(),
    })
}

/// What a command answers that no script calls.
pub fn plain(reply: Reply<'_>) -> redis::Value {
    match reply {
        Reply::Nil => redis::Value::Nil,
        Reply::Int(n) => redis::Value::Int(n),
        Reply::Bulk(text) => redis::Value::BulkString(text.into_owned().into_bytes()),
        Reply::Status(text) => redis::Value::SimpleString(text.to_owned()),
        Reply::Array(replies) => redis::Value::Array(replies.into_iter().map(plain).collect()),
    }
}
