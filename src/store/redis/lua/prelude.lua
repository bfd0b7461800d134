-- What every script begins with, after the table K of key names (keys.rs).
--
-- Worker names are `{browser}:{id}`, sessions 16 hex digits. A worker is "on the books" while it
-- has a field in K.active. All of it reads and writes counters that other proxies change, so it
-- only makes sense inside one script call.

local call = redis.call

local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function count(hash, worker)
  return tonumber(call('HGET', hash, worker) or 0) or 0
end

-- Adds to a counter, which never goes below zero whatever somebody did to it by hand.
local function add(hash, worker, by)
  if by == 0 then return count(hash, worker) end
  local value = call('HINCRBY', hash, worker, by)
  if value < 0 then
    call('HSET', hash, worker, 0)
    return 0
  end
  return value
end

-- Changes both counters of a worker on the books and tells the proxies.
local function change(worker, active, lifetime)
  local a = add(K.active, worker, active)
  local l = add(K.lifetime, worker, lifetime)
  local revision = call('INCR', K.revision)
  call('PUBLISH', K.events, 'c ' .. a .. ' ' .. l .. ' ' .. revision .. ' ' .. worker)
  return a, l, revision
end

-- Whether a worker's record is there. One without TTL is a dead worker.
local function alive(record)
  return call('PTTL', record) >= 0
end

local function on_the_books(worker)
  return call('HEXISTS', K.active, worker) == 1
end

-- Tells the proxies of a worker's whole record.
local function announce(worker)
  local flat = call('HGETALL', K.worker .. worker)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  local a, l = count(K.active, worker), count(K.lifetime, worker)
  local revision = call('INCR', K.revision)
  local body = cjson.encode({ worker = worker, fields = fields })
  call('PUBLISH', K.events, 'w ' .. a .. ' ' .. l .. ' ' .. revision .. ' ' .. body)
  return a, l, revision
end

-- A new worker takes the place of one that had its turn to recycle and is gone.
local function end_turn(newcomer)
  local turns = K.turns .. newcomer:match('^[^:]*')
  for _, worker in ipairs(call('HKEYS', turns)) do
    if call('EXISTS', K.worker .. worker) == 0 then
      call('HDEL', turns, worker)
      return
    end
  end
end

-- Puts a worker whose record was just written on the books. Sessions may hold seats on it from
-- before it fell silent, and somebody may remember its lifetime.
local function enter(worker, ttl, lifetime)
  call('ZADD', K.workers, now() + ttl, worker)
  if not on_the_books(worker) then
    end_turn(worker)
    local held = call('HLEN', K.seats .. worker)
    call('HSET', K.active, worker, held)
    call('HSET', K.lifetime, worker, math.max(held, lifetime, count(K.lifetime, worker)))
  end
end

-- Takes a worker off the books. Its seats stay with the sessions that hold them.
local function strike(worker)
  local known = call('ZREM', K.workers, worker)
  call('DEL', K.worker .. worker, K.command .. worker)
  call('HDEL', K.active, worker)
  call('HDEL', K.lifetime, worker)
  if known == 1 then
    call('PUBLISH', K.events, 'g ' .. call('INCR', K.revision) .. ' ' .. worker)
  end
end

-- Gives back the seat that a proxy's session holds; false if it holds none.
local function give_back(proxy, session, refund)
  local worker = call('HGET', K.leases .. proxy, session)
  if not worker then return false end
  call('HDEL', K.leases .. proxy, session)
  call('HDEL', K.seats .. worker, session)
  if on_the_books(worker) then change(worker, -1, refund and -1 or 0) end
  return true
end

-- How many proxies are alive, and how many are not.
local function count_proxies()
  local alive, dead = 0, 0
  for _, proxy in ipairs(call('SMEMBERS', K.proxies)) do
    if call('EXISTS', K.proxy .. proxy) == 1 then alive = alive + 1 else dead = dead + 1 end
  end
  return alive, dead
end

-- Whether this connection still speaks for its proxy. Once a newer connection said hello, or the
-- identity expired, what an older one sent must not take effect any more.
local function fenced(proxy, epoch)
  return call('GET', K.proxy .. proxy) ~= epoch
end

local FENCED = redis.error_reply('FENCED this connection does not speak for its proxy any more')
