//! What Redis has on its books of a grid, read whole at one moment, and whether it adds up.

use super::RedisServer;
use std::collections::BTreeMap;

/// A worker's counters, as anybody reads them with `redis-cli`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub active: i64,
    pub lifetime: i64,
}

/// Read by one script, so that nothing changes in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// By `{browser}:{id}`: what the two hashes of the original have.
    pub workers: BTreeMap<String, Account>,
    /// Seats that proxies hold.
    pub leases: i64,
    /// Clients that stand in the line of all proxies.
    pub waiting: i64,
    /// What must never be, in words.
    pub wrong: Vec<String>,
}

const READ: &str = r"
    local wrong, workers = {}, {}
    local function pairs_of(hash)
      local flat, out = redis.call('HGETALL', hash), {}
      for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
      return out
    end
    local active = pairs_of('cluster:active_connections')
    local lifetime = pairs_of('cluster:lifetime_connections')
    for worker, n in pairs(active) do
      local l = lifetime[worker] or '0'
      local seats = redis.call('HLEN', 'playhouse:seats:' .. worker)
      workers[#workers + 1] = { worker, n, l }
      if tonumber(n) ~= seats then
        wrong[#wrong + 1] = worker .. ' counts ' .. n .. ' for ' .. seats .. ' seats'
      end
      if tonumber(n) < 0 or tonumber(l) < 0 then
        wrong[#wrong + 1] = worker .. ' is negative'
      end
    end
    local leases, seats = 0, 0
    for _, key in ipairs(redis.call('KEYS', 'playhouse:leases:*')) do
      local proxy = string.sub(key, #'playhouse:leases:' + 1)
      for session, worker in pairs(pairs_of(key)) do
        leases = leases + 1
        if redis.call('HGET', 'playhouse:seats:' .. worker, session) ~= proxy then
          wrong[#wrong + 1] = session .. ' has a lease and no seat on ' .. worker
        end
      end
    end
    for _, key in ipairs(redis.call('KEYS', 'playhouse:seats:*')) do
      seats = seats + redis.call('HLEN', key)
    end
    if leases ~= seats then
      wrong[#wrong + 1] = leases .. ' leases for ' .. seats .. ' seats'
    end
    local waiting = 0
    for _, key in ipairs(redis.call('KEYS', 'playhouse:waiting:*')) do
      for field in pairs(pairs_of(key)) do
        -- The others are what a proxy notes beside its clients.
        if string.match(field, '^%x+$') then waiting = waiting + 1 end
      end
    end
    return { wrong, workers, leases, waiting }";

impl Books {
    /// `Err` while Redis does not answer, or not as a primary.
    pub fn try_read(redis: &RedisServer) -> redis::RedisResult<Books> {
        Books::try_read_at(&redis.url())
    }

    /// The same of a Redis that is none of [`RedisServer`].
    pub fn try_read_at(url: &str) -> redis::RedisResult<Books> {
        type Row = (String, i64, i64);
        let mut connection = redis::Client::open(url)?.get_connection()?;
        let (wrong, rows, leases, waiting): (Vec<String>, Vec<Row>, i64, i64) =
            redis::cmd("EVAL").arg(READ).arg(0).query(&mut connection)?;
        let account = |(worker, active, lifetime)| (worker, Account { active, lifetime });
        Ok(Books {
            workers: rows.into_iter().map(account).collect(),
            leases,
            waiting,
            wrong,
        })
    }

    pub fn read(redis: &RedisServer) -> Books {
        Books::try_read(redis).expect("Redis answers")
    }

    /// The sum of `cluster:active_connections`.
    pub fn active(&self) -> i64 {
        self.workers.values().map(|it| it.active).sum()
    }

    /// What must hold at every moment: counters are the sums of the seats, every seat is
    /// somebody's lease, nothing is negative.
    #[track_caller]
    pub fn assert_right(&self) {
        assert!(self.wrong.is_empty(), "{self:#?}");
    }
}
