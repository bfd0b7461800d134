//! The scripts as they are, run by the Lua that Redis embeds, over the simulated database.

use super::database::{Database, Reply};
use mlua::{Function, Lua, Table, Value, Variadic};
use redis::{ErrorKind, RedisError, ServerErrorKind};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

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
    database: Arc<Mutex<Database>>,
    scripts: Mutex<Vec<Script>>,
    /// Hashes of those that were loaded since the server was started.
    loaded: Mutex<BTreeSet<String>>,
    bug: Option<Bug>,
}

struct Script {
    /// What it does, for people.
    title: String,
    source: String,
    hash: String,
    function: Function,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Vm {
    pub fn new(bug: Option<Bug>) -> Vm {
        let lua = Lua::new();
        let database = Arc::<Mutex<Database>>::default();
        install(&lua, &database).unwrap();
        Vm {
            lua,
            database,
            scripts: Mutex::default(),
            loaded: Mutex::default(),
            bug,
        }
    }

    pub fn database(&self) -> MutexGuard<'_, Database> {
        lock(&self.database)
    }

    /// The server starts again, which forgets its scripts.
    pub fn restart(&self) {
        lock(&self.loaded).clear();
    }

    /// Answers `SCRIPT EXISTS`.
    pub fn has(&self, hash: &str) -> redis::Value {
        let loaded = lock(&self.loaded).contains(hash);
        redis::Value::Array(vec![redis::Value::Int(i64::from(loaded))])
    }

    /// Answers `SCRIPT LOAD`.
    pub fn load(&self, source: &str) -> redis::Value {
        let hash = self.compile(source);
        lock(&self.loaded).insert(hash.clone());
        redis::Value::SimpleString(hash)
    }

    /// Compiled once, however often the server starts.
    fn compile(&self, source: &str) -> String {
        let mut scripts = lock(&self.scripts);
        if let Some(known) = scripts.iter().find(|script| script.source == source) {
            return known.hash.clone();
        }
        let mut text = source.to_owned();
        if let Some(bug) = self.bug.filter(|bug| text.contains(bug.from)) {
            text = text.replace(bug.from, bug.to);
        }
        let mut parts = source.split("\n\n");
        let header = parts.find(|part| part.contains("-- Returns"));
        let title = header.unwrap_or_default().trim();
        let script = Script {
            title: title.lines().next().unwrap_or_default().to_owned(),
            source: source.to_owned(),
            hash: redis::Script::new(source).get_hash().to_owned(),
            function: self.lua.load(&text).into_function().unwrap(),
        };
        let hash = script.hash.clone();
        scripts.push(script);
        hash
    }

    /// What a script does, in words.
    pub fn title(&self, hash: &str) -> String {
        let scripts = lock(&self.scripts);
        let found = scripts.iter().find(|script| script.hash == hash);
        found.map_or(hash.to_owned(), |script| script.title.clone())
    }

    /// Answers `EVALSHA`.
    pub fn run(
        &self,
        hash: &str,
        keys: &[String],
        args: &[String],
    ) -> Result<redis::Value, RedisError> {
        let function = {
            let scripts = lock(&self.scripts);
            let found = scripts.iter().find(|script| script.hash == hash);
            let found = found.filter(|_| lock(&self.loaded).contains(hash));
            found.map(|script| script.function.clone())
        };
        let Some(function) = function else {
            return Err(error("NOSCRIPT No matching script."));
        };
        let globals = self.lua.globals();
        let tables = [("KEYS", keys), ("ARGV", args)];
        for (name, texts) in tables {
            let table = self
                .lua
                .create_sequence_from(texts.iter().map(String::as_str));
            globals.raw_set(name, table.unwrap()).unwrap();
        }
        match function.call::<Value>(()) {
            Ok(value) => answer(&value),
            Err(failed) => Err(error(&said(&failed))),
        }
    }
}

/// What an error of Lua says, without where.
fn said(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => said(cause),
        mlua::Error::ExternalError(text) => text.to_string(),
        other => format!("ERR {other}"),
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
fn install(lua: &Lua, database: &Arc<Mutex<Database>>) -> mlua::Result<()> {
    let redis = lua.create_table()?;
    for (name, protected) in [("call", false), ("pcall", true)] {
        let database = database.clone();
        let call = lua.create_function(move |lua, args: Variadic<Value>| {
            let args: Vec<String> = args.iter().map(text).collect::<mlua::Result<_>>()?;
            match lock(&database).execute(&args) {
                Ok(reply) => to_lua(lua, reply),
                Err(text) if protected => {
                    let table = lua.create_table()?;
                    table.raw_set("err", text)?;
                    Ok(Value::Table(table))
                }
                Err(text) => Err(mlua::Error::external(text)),
            }
        })?;
        redis.raw_set(name, call)?;
    }
    redis.raw_set(
        "error_reply",
        lua.create_function(|lua, text: String| {
            let table = lua.create_table()?;
            table.raw_set("err", text)?;
            Ok(table)
        })?,
    )?;
    lua.globals().raw_set("redis", redis)?;
    let cjson = lua.create_table()?;
    cjson.raw_set(
        "encode",
        lua.create_function(|_, value: Value| Ok(json(&value)?.to_string()))?,
    )?;
    lua.globals().raw_set("cjson", cjson)
}

/// An argument of a command. Numbers are written as Redis writes them, with 17 digits at most.
fn text(value: &Value) -> mlua::Result<String> {
    Ok(match value {
        Value::String(text) => text.to_str()?.to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Number(n) => n.to_string(),
        other => {
            return Err(mlua::Error::external(format!(
                "ERR a {} is no argument",
                other.type_name()
            )));
        }
    })
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
        other => text(other)?.into(),
    })
}

fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Int(n) => Value::Integer(n),
        Reply::Bulk(text) => Value::String(lua.create_string(text)?),
        Reply::Status(text) => {
            let table = lua.create_table()?;
            table.raw_set("ok", text)?;
            Value::Table(table)
        }
        Reply::Array(replies) => {
            let table = lua.create_table_with_capacity(replies.len(), 0)?;
            for (at, reply) in replies.into_iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, reply)?)?;
            }
            Value::Table(table)
        }
    })
}

/// What a script's value is on the wire.
fn answer(value: &Value) -> Result<redis::Value, RedisError> {
    Ok(match value {
        Value::Nil | Value::Boolean(false) => redis::Value::Nil,
        Value::Boolean(true) => redis::Value::Int(1),
        Value::Integer(n) => redis::Value::Int(*n),
        Value::Number(n) => redis::Value::Int(*n as i64),
        Value::String(text) => redis::Value::BulkString(text.as_bytes().to_vec()),
        Value::Table(table) => return of_table(table),
        other => return Err(error(&format!("ERR a {} is no answer", other.type_name()))),
    })
}

fn of_table(table: &Table) -> Result<redis::Value, RedisError> {
    let word = |name: &str| table.raw_get::<Option<String>>(name).ok().flatten();
    if let Some(text) = word("err") {
        return Err(error(&text));
    }
    if let Some(text) = word("ok") {
        return Ok(redis::Value::SimpleString(text));
    }
    let values = table.sequence_values::<Value>();
    let values: Result<Vec<redis::Value>, RedisError> = values
        .map(|value| answer(&value.map_err(|failed| error(&said(&failed)))?))
        .collect();
    Ok(redis::Value::Array(values?))
}

/// The same for a command that no script calls.
pub fn plain(reply: Reply) -> redis::Value {
    match reply {
        Reply::Nil => redis::Value::Nil,
        Reply::Int(n) => redis::Value::Int(n),
        Reply::Bulk(text) => redis::Value::BulkString(text.into_bytes()),
        Reply::Status(text) => redis::Value::SimpleString(text.to_owned()),
        Reply::Array(replies) => redis::Value::Array(replies.into_iter().map(plain).collect()),
    }
}
