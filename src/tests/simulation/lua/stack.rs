//! What passes between the scripts and the simulated database, on Lua's own stack: a schedule has thousands
//! of commands, and what is copied for each is most of what it costs.

use super::super::database::{Database, Reply};
use super::error;
use mlua::{ffi, lua_State};
use redis::{RedisError, Value};
use std::ffi::{CStr, c_int, c_void};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Arguments of a command that need no list of their own.
const FEW: usize = 16;

/// Leaves `redis.call` on the stack, or `redis.pcall` when it is protected.
///
/// # Safety
/// The state is a live one, and the database outlives it.
pub unsafe fn push_call(state: *mut lua_State, database: &Mutex<Database>, protected: bool) {
    let function = if protected { pcall } else { call };
    // SAFETY: the stack has room for one value, by Lua's promise for a call; the pointer is only that.
    unsafe {
        ffi::lua_pushlightuserdata(state, std::ptr::from_ref(database) as *mut c_void);
        ffi::lua_pushcclosure(state, function, 1);
    }
}

/// # Safety
/// For Lua to call, as made by [`push_call`].
unsafe extern "C-unwind" fn call(state: *mut lua_State) -> c_int {
    // SAFETY: the caller's promise is the call's own. Nothing is left to be dropped when the error is raised.
    unsafe {
        if !execute(state) {
            ffi::lua_error(state);
        }
    }
    1
}

/// # Safety
/// As for [`call`].
unsafe extern "C-unwind" fn pcall(state: *mut lua_State) -> c_int {
    // SAFETY: the caller's promise is the call's own.
    unsafe { execute(state) };
    1
}

/// Runs the command on the stack and leaves its answer there, or its error, which is `false`.
///
/// # Safety
/// As for [`call`].
unsafe fn execute(state: *mut lua_State) -> bool {
    // SAFETY: the upvalue is what `push_call` made of a database that outlives the state, and Lua leaves
    // room on the stack behind the arguments.
    unsafe {
        let database = ffi::lua_touserdata(state, ffi::lua_upvalueindex(1));
        let database = &*database.cast_const().cast::<Mutex<Database>>();
        let answered = catch_unwind(AssertUnwindSafe(|| {
            let count = ffi::lua_gettop(state) as usize;
            let (mut few, mut many) = ([""; FEW], Vec::new());
            if count > FEW {
                many.resize(count, "");
            }
            let args = few.get_mut(..count).unwrap_or(&mut many);
            for (at, arg) in (1..).zip(args.iter_mut()) {
                *arg = argument(state, at)?;
            }
            let mut database = database.lock().unwrap();
            database.execute(args).map(|reply| push(state, &reply))
        }));
        let failed = match answered {
            Ok(Ok(())) => return true,
            Ok(Err(text)) => text,
            Err(_) => "ERR the simulated Redis panicked".to_owned(),
        };
        push_error(state, &failed);
        false
    }
}

/// An argument of a command, as long as it is on the stack. Numbers are written as Redis writes them, with
/// 17 digits at most.
///
/// # Safety
/// There is such a place on the stack, and room behind it.
unsafe fn argument<'a>(state: *mut lua_State, at: c_int) -> Result<&'a str, String> {
    // SAFETY: the caller's promise; a string is alive as long as it is on the stack.
    unsafe {
        match ffi::lua_type(state, at) {
            ffi::LUA_TSTRING => {}
            ffi::LUA_TNUMBER => {
                let number = ffi::lua_tonumber(state, at);
                let (mut digits, whole) = ([0; 24], number as i64);
                if whole as f64 == number && write!(&mut digits[..], "{whole}").is_ok() {
                    let length = digits.iter().position(|it| *it == 0);
                    push_bytes(state, &digits[..length.unwrap_or(digits.len())]);
                } else {
                    push_bytes(state, number.to_string().as_bytes());
                }
                ffi::lua_replace(state, at);
            }
            other => {
                let name = CStr::from_ptr(ffi::lua_typename(state, other));
                return Err(format!("ERR a {} is no argument", name.to_string_lossy()));
            }
        }
        std::str::from_utf8(bytes_at(state, at)).map_err(|error| format!("ERR {error}"))
    }
}

/// # Safety
/// There is a string at that place, and it stays there.
unsafe fn bytes_at<'a>(state: *mut lua_State, at: c_int) -> &'a [u8] {
    // SAFETY: the caller's promise; a string has a pointer and its length.
    unsafe {
        let mut length = 0;
        let start = ffi::lua_tolstring(state, at, &mut length);
        std::slice::from_raw_parts(start.cast(), length)
    }
}

/// # Safety
/// The stack has room for one value.
unsafe fn push_bytes(state: *mut lua_State, bytes: &[u8]) {
    // SAFETY: Lua copies as many bytes as there are.
    unsafe { ffi::lua_pushlstring_(state, bytes.as_ptr().cast(), bytes.len()) }
}

/// Leaves an error as the scripts know it: a table that has it as `err`.
///
/// # Safety
/// The stack has room for three values.
unsafe fn push_error(state: *mut lua_State, text: &str) {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        push_word(state, b"err", text);
    }
}

/// Puts a text under a name into the table on top.
///
/// # Safety
/// There is a table, and room for two values.
unsafe fn push_word(state: *mut lua_State, name: &[u8], text: &str) {
    // SAFETY: the caller's promise.
    unsafe {
        push_bytes(state, name);
        push_bytes(state, text.as_bytes());
        ffi::lua_rawset(state, -3);
    }
}

/// Leaves what a command answers.
///
/// # Safety
/// The stack has room for some values.
unsafe fn push(state: *mut lua_State, reply: &Reply<'_>) {
    // SAFETY: the caller's promise, which is made anew for what is within.
    unsafe {
        match reply {
            Reply::Nil => ffi::lua_pushboolean(state, 0),
            Reply::Int(n) => ffi::lua_pushnumber(state, *n as f64),
            Reply::Bulk(text) => push_bytes(state, text.as_bytes()),
            Reply::Status(text) => {
                ffi::lua_createtable(state, 0, 1);
                push_word(state, b"ok", text);
            }
            Reply::Array(replies) => {
                ffi::lua_createtable(state, replies.len() as c_int, 0);
                ffi::luaL_checkstack(state, FEW as c_int, std::ptr::null());
                for (at, reply) in (1..).zip(replies) {
                    push(state, reply);
                    ffi::lua_rawseti_(state, -2, at);
                }
            }
        }
    }
}

/// Calls a script that was put into the registry, and takes its answer off the stack.
///
/// # Safety
/// The state is a live one with room for some values, and the registry has a function there.
pub unsafe fn run(
    state: *mut lua_State,
    function: c_int,
    keys: &[&str],
    args: &[&str],
) -> Result<Value, RedisError> {
    // SAFETY: the caller's promise; each line leaves the stack as it says.
    unsafe {
        for (name, texts) in [(c"KEYS", keys), (c"ARGV", args)] {
            ffi::lua_createtable(state, texts.len() as c_int, 0);
            for (at, text) in (1..).zip(texts) {
                push_bytes(state, text.as_bytes());
                ffi::lua_rawseti_(state, -2, at);
            }
            ffi::lua_setfield(state, ffi::LUA_GLOBALSINDEX, name.as_ptr());
        }
        ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, function);
        let failed = ffi::lua_pcall(state, 0, 1, 0) != ffi::LUA_OK;
        let answer = match ffi::lua_type(state, -1) {
            ffi::LUA_TSTRING if failed => {
                let said = String::from_utf8_lossy(bytes_at(state, -1));
                Err(error(&format!("ERR {said}")))
            }
            _ => answer(state),
        };
        ffi::lua_settop(state, -2);
        answer
    }
}

/// What the value on top is on the wire.
///
/// # Safety
/// There is one.
unsafe fn answer(state: *mut lua_State) -> Result<Value, RedisError> {
    // SAFETY: the caller's promise.
    unsafe {
        Ok(match ffi::lua_type(state, -1) {
            ffi::LUA_TNIL => Value::Nil,
            ffi::LUA_TBOOLEAN if ffi::lua_toboolean(state, -1) == 0 => Value::Nil,
            ffi::LUA_TBOOLEAN => Value::Int(1),
            ffi::LUA_TNUMBER => Value::Int(ffi::lua_tonumber(state, -1) as i64),
            ffi::LUA_TSTRING => Value::BulkString(bytes_at(state, -1).to_vec()),
            ffi::LUA_TTABLE => return of_table(state),
            other => {
                let name = CStr::from_ptr(ffi::lua_typename(state, other)).to_string_lossy();
                return Err(error(&format!("ERR a {name} is no answer")));
            }
        })
    }
}

/// # Safety
/// There is a table on top.
unsafe fn of_table(state: *mut lua_State) -> Result<Value, RedisError> {
    // SAFETY: the caller's promise; room is asked for, and what is pushed is taken off again.
    unsafe {
        ffi::luaL_checkstack(state, FEW as c_int, std::ptr::null());
        if let Some(text) = word(state, b"err") {
            return Err(error(&text));
        }
        if let Some(text) = word(state, b"ok") {
            return Ok(Value::SimpleString(text));
        }
        // Up to the first that is nil.
        let mut values = Vec::with_capacity(ffi::lua_objlen(state, -1));
        for at in 1.. {
            ffi::lua_rawgeti_(state, -1, at);
            let value = match ffi::lua_type(state, -1) {
                ffi::LUA_TNIL => None,
                _ => Some(answer(state)),
            };
            ffi::lua_settop(state, -2);
            match value {
                Some(value) => values.push(value?),
                None => break,
            }
        }
        Ok(Value::Array(values))
    }
}

/// The text that the table on top has under a name.
///
/// # Safety
/// There is a table on top, and room for one value.
unsafe fn word(state: *mut lua_State, name: &[u8]) -> Option<String> {
    // SAFETY: the caller's promise.
    unsafe {
        push_bytes(state, name);
        ffi::lua_rawget(state, -2);
        let there = ffi::lua_type(state, -1) == ffi::LUA_TSTRING;
        let text = there.then(|| String::from_utf8_lossy(bytes_at(state, -1)).into_owned());
        ffi::lua_settop(state, -2);
        text
    }
}
