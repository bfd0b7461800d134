//! The part of Redis that Playhouse uses, in memory: keys with their types and times to live, and the
//! commands, as far as the scripts and the store need them. What it does not know it refuses, so that
//! nothing passes for simulated that is not.

use std::collections::{BTreeMap, BTreeSet};

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

/// What a command answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Nil,
    Int(i64),
    Bulk(String),
    Status(&'static str),
    Array(Vec<Reply>),
}

impl From<&str> for Reply {
    fn from(text: &str) -> Reply {
        Reply::Bulk(text.to_owned())
    }
}

fn bulk(text: Option<&String>) -> Reply {
    text.map_or(Reply::Nil, |text| Reply::Bulk(text.clone()))
}

fn bulks<'a>(texts: impl Iterator<Item = &'a String>) -> Reply {
    Reply::Array(texts.map(|text| Reply::Bulk(text.clone())).collect())
}

type Answer = Result<Reply, String>;

/// All keys, and what was published and not delivered yet.
#[derive(Clone, Debug, Default)]
pub struct Database {
    entries: BTreeMap<String, Entry>,
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

        fn $write(&mut self, key: &str) -> Result<&mut $type, String> {
            self.expire(key);
            let entry = self.entries.entry(key.to_owned()).or_insert_with(|| Entry {
                data: Data::$variant(Default::default()),
                expires: None,
            });
            match &mut entry.data {
                Data::$variant(data) => Ok(data),
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

    fn expire(&mut self, key: &str) {
        let over = |entry: &Entry| entry.expires.is_some_and(|at| at <= self.now);
        if self.entries.get(key).is_some_and(over) {
            self.entries.remove(key);
        }
    }

    pub fn get(&mut self, key: &str) -> Option<&Data> {
        self.expire(key);
        self.entries.get(key).map(|entry| &entry.data)
    }

    /// When a key expires.
    pub fn expires(&mut self, key: &str) -> Option<u64> {
        self.expire(key);
        self.entries.get(key)?.expires
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
    pub fn execute(&mut self, args: &[String]) -> Answer {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (name, args) = args.split_first().ok_or("ERR no command")?;
        let key = args.first().copied().unwrap_or_default();
        let answer = match *name {
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
        };
        self.tidy(key);
        answer
    }

    fn of_any(&mut self, name: &str, args: &[&str]) -> Answer {
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
                Reply::Bulk((self.now / 1_000_000).to_string()),
                Reply::Bulk((self.now % 1_000_000).to_string()),
            ]),
            // All in one answer: [cursor, MATCH, pattern, COUNT, n].
            "SCAN" => {
                let prefix = args[2].trim_end_matches('*');
                let names: Vec<String> = self.entries.keys().cloned().collect();
                let found = names.iter().filter(|name| name.starts_with(prefix));
                Reply::Array(vec!["0".into(), bulks(found)])
            }
            _ => return Err(unknown(name)),
        })
    }

    fn set_text(&mut self, args: &[&str]) -> Answer {
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

    fn raise_text(&mut self, key: &str, by: i64) -> Answer {
        let text = self.text_mut(key)?;
        let before = if text.is_empty() { 0 } else { whole(text)? };
        *text = (before + by).to_string();
        Ok(Reply::Int(before + by))
    }

    fn of_hash(&mut self, name: &str, args: &[&str]) -> Answer {
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
                Reply::Int(args[1..].iter().filter(there).count() as i64)
            }
            "HINCRBY" => {
                let hash = self.hash_mut(key)?;
                let before = match hash.get(field) {
                    None => 0,
                    Some(text) => {
                        whole(text).map_err(|_| "ERR hash value is not an integer".to_owned())?
                    }
                };
                let after = before + whole(args[2])?;
                hash.insert(field.to_owned(), after.to_string());
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

    fn of_set(&mut self, name: &str, args: &[&str]) -> Answer {
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
                Reply::Int(
                    args[1..]
                        .iter()
                        .filter(|member| set.remove(**member))
                        .count() as i64,
                )
            }
            _ => return Err(unknown(name)),
        })
    }

    fn of_sorted(&mut self, name: &str, args: &[&str]) -> Answer {
        let key = args.first().copied().unwrap_or_default();
        let ranked = |sorted: Option<&BTreeMap<String, f64>>| {
            let mut all: Vec<(String, f64)> = sorted
                .into_iter()
                .flatten()
                .map(|(member, score)| (member.clone(), *score))
                .collect();
            all.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
            all
        };
        Ok(match name {
            "ZADD" => {
                let sorted = self.sorted_mut(key)?;
                let mut new = 0;
                for pair in args[1..].chunks_exact(2) {
                    new += i64::from(sorted.insert(pair[1].to_owned(), bound(pair[0])?).is_none());
                }
                Reply::Int(new)
            }
            "ZREM" => {
                if self.sorted(key)?.is_none() {
                    return Ok(Reply::Int(0));
                }
                let sorted = self.sorted_mut(key)?;
                let there = |member: &&&str| sorted.remove(**member).is_some();
                Reply::Int(args[1..].iter().filter(there).count() as i64)
            }
            "ZSCORE" => {
                let score = self.sorted(key)?.and_then(|sorted| sorted.get(args[1]));
                score.map_or(Reply::Nil, |score| Reply::Bulk(score.to_string()))
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
                    let score = scores.then(|| Reply::Bulk(score.to_string()));
                    [Some(Reply::Bulk(member)), score].into_iter().flatten()
                });
                Reply::Array(replies.collect())
            }
            "ZREMRANGEBYRANK" => {
                let count = self.sorted(key)?.map_or(0, BTreeMap::len) as i64;
                let rank = |text: &str| whole(text).map(|it| if it < 0 { it + count } else { it });
                let (from, to) = (rank(args[1])?, rank(args[2])?);
                let all = ranked(self.sorted(key)?).into_iter().enumerate();
                let chosen = all.filter(|(at, _)| (from..=to).contains(&(*at as i64)));
                let chosen: Vec<String> = chosen.map(|(_, (member, _))| member).collect();
                for member in &chosen {
                    self.sorted_mut(key)?.remove(member);
                }
                Reply::Int(chosen.len() as i64)
            }
            "ZRANGEBYSCORE" | "ZCOUNT" | "ZREMRANGEBYSCORE" => {
                let (least, most) = (bound(args[1])?, bound(args[2])?);
                let limit = match args.get(3) {
                    Some(&"LIMIT") => whole(args[5])? as usize,
                    _ => usize::MAX,
                };
                let within = ranked(self.sorted(key)?)
                    .into_iter()
                    .filter(|(_, score)| (least..=most).contains(score))
                    .take(limit);
                let members: Vec<String> = within.map(|(member, _)| member).collect();
                match name {
                    "ZRANGEBYSCORE" => bulks(members.iter()),
                    "ZCOUNT" => Reply::Int(members.len() as i64),
                    _ => {
                        if self.sorted(key)?.is_some() {
                            let sorted = self.sorted_mut(key)?;
                            members.iter().for_each(|member| {
                                sorted.remove(member);
                            });
                        }
                        Reply::Int(members.len() as i64)
                    }
                }
            }
            _ => return Err(unknown(name)),
        })
    }
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
