//! The part of Redis that Playhouse uses, in memory: keys with their types and times to live, and the
//! commands, as far as the scripts and the store need them. What it does not know it refuses, so that
//! nothing passes for simulated that is not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// What stands under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Text(String),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
    Sorted(BTreeMap<String, f64>),
}

#[derive(Clone, Debug)]
struct Entry {
    data: Data,
    /// In microseconds of the server's clock.
    expires: Option<u64>,
}

/// What a command answers, as far as it can without a copy of what is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<'a> {
    Nil,
    Int(i64),
    Bulk(Cow<'a, str>),
    Status(&'static str),
    Array(Vec<Reply<'a>>),
}

impl<'a> From<&'a str> for Reply<'a> {
    fn from(text: &'a str) -> Reply<'a> {
        Reply::Bulk(text.into())
    }
}

impl From<String> for Reply<'_> {
    fn from(text: String) -> Self {
        Reply::Bulk(text.into())
    }
}

fn bulk(text: Option<&String>) -> Reply<'_> {
    text.map_or(Reply::Nil, |text| text.as_str().into())
}

fn bulks<'a>(texts: impl Iterator<Item = &'a String>) -> Reply<'a> {
    Reply::Array(texts.map(|text| text.as_str().into()).collect())
}

type Answer<'a> = Result<Reply<'a>, String>;

type Entries = HashMap<String, Entry, BuildHasherDefault<Quick>>;

/// Hashes keys for many questions and few keys, which nobody chose to be in each other's way.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let mixed = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
            self.0 = mixed.wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// All keys, and what was published and not delivered yet.
#[derive(Clone, Debug, Default)]
pub struct Database {
    entries: Entries,
    /// In microseconds.
    pub now: u64,
    pub published: Vec<(String, String)>,
    /// How many connections hear each channel.
    pub receivers: BTreeMap<String, i64>,
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

macro_rules! typed {
    ($read:ident, $write:ident, $variant:ident, $type:ty) => {
        /// What stands under the key; an error when it is of another type.
        pub fn $read(&mut self, key: &str) -> Result<Option<&$type>, String> {
            match self.get(key) {
                None => Ok(None),
                Some(Data::$variant(data)) => Ok(Some(data)),
                Some(_) => Err(WRONG_TYPE.to_owned()),
            }
        }

        /// The same to be changed, made anew where nothing is. Whoever may leave it empty tidies up.
        fn $write(&mut self, key: &str) -> Result<&mut $type, String> {
            if self.get(key).is_none() {
                self.put(key, Data::$variant(Default::default()));
            }
            match self.entries.get_mut(key).map(|entry| &mut entry.data) {
                Some(Data::$variant(data)) => Ok(data),
                _ => Err(WRONG_TYPE.to_owned()),
            }
        }
    };
}

impl Database {
    typed!(text, text_mut, Text, String);
    typed!(hash, hash_mut, Hash, BTreeMap<String, String>);
    typed!(set, set_mut, Set, BTreeSet<String>);
    typed!(sorted, sorted_mut, Sorted, BTreeMap<String, f64>);

    fn is_over(&self, entry: &Entry) -> bool {
        entry.expires.is_some_and(|at| at <= self.now)
    }

    fn expire(&mut self, key: &str) {
        let entry = self.entries.get(key);
        if entry.is_some_and(|entry| self.is_over(entry)) {
            self.entries.remove(key);
        }
    }

    fn now(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| !self.is_over(entry))
    }

    /// The hash that stands under a key, for somebody who only looks on.
    pub fn hash_now(&self, key: &str) -> Option<&BTreeMap<String, String>> {
        match &self.now(key)?.data {
            Data::Hash(data) => Some(data),
            _ => None,
        }
    }

    pub fn get(&mut self, key: &str) -> Option<&Data> {
        self.expire(key);
        self.entries.get(key).map(|entry| &entry.data)
    }

    /// When a key expires.
    pub fn expires(&self, key: &str) -> Option<u64> {
        self.now(key)?.expires
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.expire(key);
        self.entries.remove(key).is_some()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Takes the keys of an earlier state, as a server does that starts from a snapshot.
    pub fn go_back(&mut self, to: &Database) {
        self.entries.clone_from(&to.entries);
    }

    pub fn put(&mut self, key: &str, data: Data) {
        let expires = None;
        self.entries.insert(key.to_owned(), Entry { data, expires });
    }

    /// Keys without content are none.
    fn tidy(&mut self, key: &str) {
        let empty = match self.entries.get(key).map(|entry| &entry.data) {
            Some(Data::Hash(data)) => data.is_empty(),
            Some(Data::Set(data)) => data.is_empty(),
            Some(Data::Sorted(data)) => data.is_empty(),
            Some(Data::Text(_)) | None => false,
        };
        if empty {
            self.entries.remove(key);
        }
    }

    /// Runs one command.
    pub fn execute(&mut self, args: &[&str]) -> Answer<'_> {
        let (name, args) = args.split_first().ok_or("ERR no command")?;
        let key = args.first().copied().unwrap_or_default();
        match *name {
            "GET" | "SET" | "DEL" | "COPY" | "EXISTS" | "TYPE" | "PTTL" | "PEXPIRE" | "INCR"
            | "INCRBY" | "TIME" | "SCAN" => self.of_any(name, args),
            name if name.starts_with('H') => self.of_hash(name, args),
            "SADD" | "SREM" | "SMEMBERS" | "SISMEMBER" | "SCARD" => self.of_set(name, args),
            name if name.starts_with('Z') => self.of_sorted(name, args),
            "PUBLISH" => {
                self.published.push((key.to_owned(), args[1].to_owned()));
                Ok(Reply::Int(self.receivers.get(key).copied().unwrap_or(0)))
            }
            _ => Err(unknown(name)),
        }
    }

    fn of_any<'a>(&'a mut self, name: &str, args: &[&str]) -> Answer<'a> {
        let key = args.first().copied().unwrap_or_default();
        Ok(match name {
            "GET" => bulk(self.text(key)?),
            "SET" => return self.set_text(args),
            "DEL" => Reply::Int(args.iter().filter(|key| self.remove(key)).count() as i64),
            "COPY" => {
                let from = self.get(key).is_some().then(|| self.entries[key].clone());
                let copied = from.is_some() && self.get(args[1]).is_none();
                if let Some(entry) = from.filter(|_| copied) {
                    self.entries.insert(args[1].to_owned(), entry);
                }
                Reply::Int(i64::from(copied))
            }
            "EXISTS" => {
                Reply::Int(args.iter().filter(|key| self.get(key).is_some()).count() as i64)
            }
            "TYPE" => Reply::Status(match self.get(key) {
                None => "none",
                Some(Data::Text(_)) => "string",
                Some(Data::Hash(_)) => "hash",
                Some(Data::Set(_)) => "set",
                Some(Data::Sorted(_)) => "zset",
            }),
            "PTTL" => {
                self.expire(key);
                let now = self.now;
                Reply::Int(self.entries.get(key).map_or(-2, |entry| {
                    entry.expires.map_or(-1, |at| ((at - now) / 1000) as i64)
                }))
            }
            "PEXPIRE" => {
                self.expire(key);
                let at = self.now + whole(args[1])? as u64 * 1000;
                let there = self.entries.get_mut(key);
                Reply::Int(there.map_or(0, |entry| {
                    entry.expires = Some(at);
                    1
                }))
            }
            "INCR" => self.raise_text(key, 1)?,
            "INCRBY" => self.raise_text(key, whole(args[1])?)?,
            "TIME" => Reply::Array(vec![
                (self.now / 1_000_000).to_string().into(),
                (self.now % 1_000_000).to_string().into(),
            ]),
            // All in one answer: [cursor, MATCH, pattern, COUNT, n].
            "SCAN" => {
                let prefix = args[2].trim_end_matches('*');
                let names = self.entries.keys();
                let mut found: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
                found.sort_unstable();
                Reply::Array(vec!["0".into(), bulks(found.into_iter())])
            }
            _ => return Err(unknown(name)),
        })
    }

    fn set_text(&mut self, args: &[&str]) -> Answer<'_> {
        let (key, value) = (args[0], args[1]);
        let (mut expires, mut only_new) = (None, false);
        let mut options = args[2..].iter();
        while let Some(option) = options.next() {
            match *option {
                "NX" => only_new = true,
                "PX" => {
                    let ttl = whole(options.next().ok_or("ERR syntax error")?)?;
                    expires = Some(self.now + ttl as u64 * 1000);
                }
                _ => return Err(unknown(option)),
            }
        }
        if only_new && self.get(key).is_some() {
            return Ok(Reply::Nil);
        }
        let data = Data::Text(value.to_owned());
        self.entries.insert(key.to_owned(), Entry { data, expires });
        Ok(Reply::Status("OK"))
    }

    fn raise_text(&mut self, key: &str, by: i64) -> Answer<'_> {
        let text = self.text_mut(key)?;
        let before = if text.is_empty() { 0 } else { whole(text)? };
        *text = (before + by).to_string();
        Ok(Reply::Int(before + by))
    }

    fn of_hash<'a>(&'a mut self, name: &str, args: &[&str]) -> Answer<'a> {
        let key = args.first().copied().unwrap_or_default();
        let field = args.get(1).copied().unwrap_or_default();
        Ok(match name {
            "HGET" => bulk(self.hash(key)?.and_then(|hash| hash.get(field))),
            "HMGET" => {
                let hash = self.hash(key)?;
                let of = |field: &&str| bulk(hash.and_then(|hash| hash.get(*field)));
                Reply::Array(args[1..].iter().map(of).collect())
            }
            "HGETALL" => {
                let pairs = self.hash(key)?.into_iter().flatten();
                bulks(pairs.flat_map(|(field, value)| [field, value]))
            }
            "HKEYS" => bulks(self.hash(key)?.into_iter().flat_map(BTreeMap::keys)),
            "HVALS" => bulks(self.hash(key)?.into_iter().flat_map(BTreeMap::values)),
            "HLEN" => Reply::Int(self.hash(key)?.map_or(0, BTreeMap::len) as i64),
            "HEXISTS" => {
                let there = self.hash(key)?.is_some_and(|hash| hash.contains_key(field));
                Reply::Int(i64::from(there))
            }
            "HSET" => {
                let hash = self.hash_mut(key)?;
                let put = |pair: &&[&str]| {
                    hash.insert(pair[0].to_owned(), pair[1].to_owned())
                        .is_none()
                };
                Reply::Int(args[1..].chunks_exact(2).filter(put).count() as i64)
            }
            "HSETNX" => {
                let hash = self.hash_mut(key)?;
                let new = !hash.contains_key(field);
                if new {
                    hash.insert(field.to_owned(), args[2].to_owned());
                }
                Reply::Int(i64::from(new))
            }
            "HDEL" => {
                if self.hash(key)?.is_none() {
                    return Ok(Reply::Int(0));
                }
                let hash = self.hash_mut(key)?;
                let there = |field: &&&str| hash.remove(**field).is_some();
                let removed = args[1..].iter().filter(there).count() as i64;
                self.tidy(key);
                Reply::Int(removed)
            }
            "HINCRBY" => {
                let by = whole(args[2])?;
                let hash = self.hash_mut(key)?;
                let after = match hash.get_mut(field) {
                    None => {
                        hash.insert(field.to_owned(), by.to_string());
                        by
                    }
                    Some(text) => {
                        let before = whole(text);
                        let before =
                            before.map_err(|_| "ERR hash value is not an integer".to_owned())?;
                        *text = (before + by).to_string();
                        before + by
                    }
                };
                Reply::Int(after)
            }
            // All in one answer, as for small hashes.
            "HSCAN" => {
                let pairs = self.hash(key)?.into_iter().flatten();
                let all = bulks(pairs.flat_map(|(field, value)| [field, value]));
                Reply::Array(vec!["0".into(), all])
            }
            _ => return Err(unknown(name)),
        })
    }

    fn of_set<'a>(&'a mut self, name: &str, args: &[&str]) -> Answer<'a> {
        let key = args.first().copied().unwrap_or_default();
        Ok(match name {
            "SMEMBERS" => bulks(self.set(key)?.into_iter().flatten()),
            "SISMEMBER" => {
                let there = self.set(key)?.is_some_and(|set| set.contains(args[1]));
                Reply::Int(i64::from(there))
            }
            "SCARD" => Reply::Int(self.set(key)?.map_or(0, BTreeSet::len) as i64),
            "SADD" => {
                let set = self.set_mut(key)?;
                let new = |member: &&&str| set.insert((**member).to_owned());
                Reply::Int(args[1..].iter().filter(new).count() as i64)
            }
            "SREM" => {
                if self.set(key)?.is_none() {
                    return Ok(Reply::Int(0));
                }
                let set = self.set_mut(key)?;
                let there = |member: &&&str| set.remove(**member);
                let removed = args[1..].iter().filter(there).count() as i64;
                self.tidy(key);
                Reply::Int(removed)
            }
            _ => return Err(unknown(name)),
        })
    }

    fn of_sorted<'a>(&'a mut self, name: &str, args: &[&str]) -> Answer<'a> {
        let key = args.first().copied().unwrap_or_default();
        Ok(match name {
            "ZADD" => {
                let pairs = args[1..].chunks_exact(2);
                let pairs = pairs.map(|pair| Ok((pair[1].to_owned(), bound(pair[0])?)));
                let pairs: Vec<(String, f64)> = pairs.collect::<Result<_, String>>()?;
                let sorted = self.sorted_mut(key)?;
                let new = |(member, score)| sorted.insert(member, score).is_none();
                Reply::Int(pairs.into_iter().map(new).filter(|new| *new).count() as i64)
            }
            "ZREM" => {
                if self.sorted(key)?.is_none() {
                    return Ok(Reply::Int(0));
                }
                let sorted = self.sorted_mut(key)?;
                let there = |member: &&&str| sorted.remove(**member).is_some();
                let removed = args[1..].iter().filter(there).count() as i64;
                self.tidy(key);
                Reply::Int(removed)
            }
            "ZSCORE" => {
                let score = self.sorted(key)?.and_then(|sorted| sorted.get(args[1]));
                score.map_or(Reply::Nil, |score| score.to_string().into())
            }
            "ZCARD" => Reply::Int(self.sorted(key)?.map_or(0, BTreeMap::len) as i64),
            "ZRANGE" => {
                let (from, to) = (whole(args[1])?, whole(args[2])?);
                let to = if to < 0 { usize::MAX } else { to as usize };
                let chosen = ranked(self.sorted(key)?)
                    .into_iter()
                    .skip(from as usize)
                    .take(to.saturating_sub(from as usize).saturating_add(1));
                let scores = args.get(3) == Some(&"WITHSCORES");
                let replies = chosen.flat_map(|(member, score)| {
                    let score = scores.then(|| score.to_string().into());
                    [Some(member.into()), score].into_iter().flatten()
                });
                Reply::Array(replies.collect())
            }
            "ZREMRANGEBYRANK" => {
                let count = self.sorted(key)?.map_or(0, BTreeMap::len) as i64;
                let rank = |text: &str| whole(text).map(|it| if it < 0 { it + count } else { it });
                let (from, to) = (rank(args[1])?, rank(args[2])?);
                let all = ranked(self.sorted(key)?).into_iter().enumerate();
                let chosen = all.filter(|(at, _)| (from..=to).contains(&(*at as i64)));
                let chosen = chosen.map(|(_, (member, _))| member.to_owned());
                let chosen: Vec<String> = chosen.collect();
                self.remove_members(key, &chosen)?
            }
            "ZCOUNT" => {
                let (least, most) = (bound(args[1])?, bound(args[2])?);
                let scores = self.sorted(key)?.into_iter().flat_map(BTreeMap::values);
                let within = scores.filter(|score| (least..=most).contains(*score));
                Reply::Int(within.count() as i64)
            }
            "ZRANGEBYSCORE" => {
                let found = within(self.sorted(key)?, args)?;
                Reply::Array(found.into_iter().map(Reply::from).collect())
            }
            "ZREMRANGEBYSCORE" => {
                let members = within(self.sorted(key)?, args)?.into_iter();
                let members: Vec<String> = members.map(str::to_owned).collect();
                self.remove_members(key, &members)?
            }
            _ => return Err(unknown(name)),
        })
    }

    fn remove_members(&mut self, key: &str, members: &[String]) -> Answer<'_> {
        if !members.is_empty() {
            let sorted = self.sorted_mut(key)?;
            members.iter().for_each(|member| {
                sorted.remove(member);
            });
            self.tidy(key);
        }
        Ok(Reply::Int(members.len() as i64))
    }
}

/// From the least score to the highest.
fn ranked(sorted: Option<&BTreeMap<String, f64>>) -> Vec<(&str, f64)> {
    let members = sorted.into_iter().flatten();
    let members = members.map(|(member, score)| (member.as_str(), *score));
    let mut all: Vec<(&str, f64)> = members.collect();
    // The same scores stay as they are: by name.
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

/// The members that a command asks for by their scores: [key, least, most, LIMIT, offset, n].
fn within<'a>(
    sorted: Option<&'a BTreeMap<String, f64>>,
    args: &[&str],
) -> Result<Vec<&'a str>, String> {
    let (least, most) = (bound(args[1])?, bound(args[2])?);
    let limit = match args.get(3) {
        Some(&"LIMIT") => whole(args[5])? as usize,
        _ => usize::MAX,
    };
    let ranked = ranked(sorted).into_iter();
    let within = ranked.filter(|(_, score)| (least..=most).contains(score));
    Ok(within.map(|(member, _)| member).take(limit).collect())
}

fn unknown(name: &str) -> String {
    format!("ERR unknown command '{name}' of the simulated Redis")
}

fn whole(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| "ERR value is not an integer or out of range".to_owned())
}

fn bound(text: &str) -> Result<f64, String> {
    text.parse()
        .map_err(|_| "ERR value is not a valid float".to_owned())
}
