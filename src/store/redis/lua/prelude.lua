-- What every script begins with, after the figures it names (constants.rs) and the table K of key names
-- (keys.rs).
--
-- Worker names are `{browser}:{id}`, sessions 16 hex digits. A worker is "on the books" while it
-- has a field in K.active. All of it reads and writes counters that other proxies change, so it
-- only makes sense inside one script call.

local call = redis.call

local function micros()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now()
  return math.floor(micros() / 1000)
end

-- A counter as it was read; nil for what is none, whoever wrote it.
local function whole(text)
  local n = tonumber(text)
  if n and n >= 0 and n < 4294967296 and n == math.floor(n) then return n end
end

local function count(hash, worker)
  return whole(call('HGET', hash, worker)) or 0
end

-- Seats that somebody held before Redis came back empty or old, as long as nobody has said which
-- session it was: held by nobody's proxy of this name, which lives as long as K.ghosts, in ms.
local GHOSTS = 'ghosts'

-- Of each worker the seats that leases speak of: session, proxy, ...
local leased = nil
local function read_leases()
  leased = {}
  -- A worker's user may not ask who the proxies are.
  local holders = redis.pcall('SMEMBERS', K.proxies)
  holders[#holders + 1] = GHOSTS
  for _, proxy in ipairs(holders) do
    local leases = redis.pcall('HGETALL', K.leases .. proxy)
    for i = 1, #leases, 2 do
      local of = leased[leases[i + 1]] or {}
      leased[leases[i + 1]] = of
      of[#of + 1], of[#of + 2] = leases[i], proxy
    end
  end
end

-- Counts the seats of a worker whose count is wrong or lost. Seats may have been lost with it: those that
-- leases speak of are written down again first.
local function recount(worker)
  if not leased then read_leases() end
  local of = leased[worker] or {}
  for i = 1, #of, 2 do
    local session, proxy = of[i], of[i + 1]
    if call('HGET', K.leases .. proxy, session) == worker then call('HSETNX', K.seats .. worker, session, proxy) end
  end
  return call('HLEN', K.seats .. worker)
end

-- The counter of a worker whose record is there, as it was read. One that is lost or no number is
-- as high as the seats that are held.
local function mended(hash, worker, text)
  local n = whole(text)
  if not n then
    n = recount(worker)
    call('HSET', hash, worker, n)
  end
  return n
end

-- What a worker remembers of its lifetime: every session that it was given, those that were given back included. Of
-- what only falls when Redis has lost something, a worker may say how much it was.
local function ever_given(worker)
  return count(K.lifetime, worker) + count(K.refunds, worker)
end

-- Adds to a counter. It never goes below zero, and is mended where it is no number, whatever
-- somebody did to it by hand: the worker's seats are changed before its counters.
local function add(hash, worker, by)
  if by == 0 then return count(hash, worker) end
  local value = redis.pcall('HINCRBY', hash, worker, by)
  return whole(value) or mended(hash, worker, nil)
end

-- What this call changes, for the others: behind which revision its own begin and which is its last,
-- what is to be said, at which line the counts of a worker stand, and of each worker that has changed or
-- is gone the last revision.
local risen = { lines = {}, counts_at = {}, changed = {}, gone = {} }

local function revision_now()
  return risen.last or tonumber(call('GET', K.revision)) or 0
end

-- Redis was emptied, or is older than it was: everybody writes down again what is theirs, and hears
-- of that before anything else. It is noted what lifetimes are at this moment: what somebody remembers of them
-- comes on top of what is given since.
local function begin_anew(grid)
  call('SET', K.grid, grid)
  call('PUBLISH', K.reset, grid)
  call('DEL', K.restored)
  call('COPY', K.lifetime, K.restored)
  -- No worker has that name; without any the key would not be there.
  call('HSET', K.restored, 'grid', 0)
  call('PEXPIRE', K.restored, SILENT_TTL)
end

-- The next revision. It begins with the time, so that a counter that was lost goes on above any
-- value that was ever seen. Those that follow in this call are written down at its end.
local function rise()
  if risen.last then
    risen.last = risen.last + 1
    return risen.last
  end
  local revision = redis.pcall('INCR', K.revision)
  if type(revision) ~= 'number' or revision < 1000000000000 then
    revision = now()
    call('SET', K.revision, revision)
    if call('EXISTS', K.grid) == 0 then
      begin_anew(table.concat(call('TIME')))
      call('SET', K.ghosts, revision, 'PX', GHOSTS_TTL, 'NX')
    end
  end
  risen.before, risen.last = revision - 1, revision
  return revision
end

-- Changes both counters of a worker on the books. However often a call does so, the proxies are told once.
local function change(worker, active, lifetime)
  local a = add(K.active, worker, active)
  local l = add(K.lifetime, worker, lifetime)
  local revision = rise()
  local at = risen.counts_at[worker] or #risen.lines + 1
  risen.counts_at[worker], risen.changed[worker] = at, revision
  risen.lines[at] = 'c ' .. a .. ' ' .. l .. ' ' .. revision .. ' ' .. worker
  return a, l, revision
end

-- A field of a record; nil when there is none, or when the key is no record at all.
local function field(record, name)
  local value = redis.pcall('HGET', record, name)
  if type(value) == 'string' then return value end
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
  local revision = rise()
  local body = cjson.encode({ worker = worker, fields = fields })
  risen.lines[#risen.lines + 1] = 'w ' .. a .. ' ' .. l .. ' ' .. revision .. ' ' .. body
  risen.changed[worker] = revision
  return a, l, revision
end

-- Tells the proxies that a worker is gone.
local function announce_gone(worker)
  local revision = rise()
  risen.lines[#risen.lines + 1] = 'g ' .. revision .. ' ' .. worker
  risen.gone[worker], risen.changed[worker] = revision, nil
end

local function note_revisions(key, workers)
  local scores = {}
  for worker, revision in pairs(workers) do
    scores[#scores + 1] = revision
    scores[#scores + 1] = worker
  end
  if #scores > 0 then call('ZADD', key, unpack(scores)) end
end

-- Ends a call that changed something: one message says all of it, and for those who miss that it is noted
-- which workers have changed. `scripts.rs` puts this behind each script that needs it.
local function publish_changes()
  if not risen.last then return end
  if risen.last > risen.before + 1 then call('SET', K.revision, risen.last) end
  note_revisions(K.changed, risen.changed)
  if next(risen.gone) then
    for worker in pairs(risen.gone) do call('ZREM', K.changed, worker) end
    note_revisions(K.gone, risen.gone)
    call('ZREMRANGEBYRANK', K.gone, 0, -GONE_REMEMBERED - 1)
  end
  local range = '= ' .. risen.before .. ' ' .. risen.last
  call('PUBLISH', K.events, range .. '\n' .. table.concat(risen.lines, '\n'))
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

-- Notes what the lifetime of a worker that is off the books was when Redis came back empty or old.
local function note_restored(worker, lifetime)
  if call('EXISTS', K.restored) == 1 then call('HSETNX', K.restored, worker, lifetime) end
end

-- How much is missing of a worker's lifetime, of which somebody remembers so much from an earlier grid; `known`
-- is what is known of it.
local function lifetime_missing(worker, remembered, known)
  if call('EXISTS', K.restored) == 0 then return math.max(remembered - known, 0) end
  local noted = whole(call('HGET', K.restored, worker)) or 0
  if remembered <= noted then return 0 end
  call('HSET', K.restored, worker, remembered)
  return remembered - noted
end

-- Puts a worker whose record was just written on the books. Sessions may hold seats on it from
-- before it fell silent, and somebody may remember its lifetime, from an `earlier` grid or this one.
local function enter(worker, ttl, lifetime, earlier)
  call('ZADD', K.workers, now() + ttl, worker)
  if not on_the_books(worker) then
    end_turn(worker)
    local held = call('HLEN', K.seats .. worker)
    call('HSET', K.active, worker, held)
    local silent = whole(call('GET', K.silent .. worker)) or 0
    note_restored(worker, silent)
    local known = math.max(silent, count(K.lifetime, worker))
    if earlier then
      known = known + lifetime_missing(worker, lifetime, known)
    else
      known = math.max(known, lifetime)
    end
    call('HSET', K.lifetime, worker, math.max(held, known))
    call('DEL', K.silent .. worker)
  end
end

-- Takes a worker that fell silent off the books. Its seats stay with the sessions that hold them.
local function remove_worker(worker)
  local lifetime = count(K.lifetime, worker)
  if lifetime > 0 then call('SET', K.silent .. worker, lifetime, 'PX', SILENT_TTL) end
  local known = call('ZREM', K.workers, worker)
  call('DEL', K.worker .. worker, K.command .. worker)
  call('HDEL', K.active, worker)
  call('HDEL', K.lifetime, worker)
  call('HDEL', K.refunds, worker)
  if known == 1 then announce_gone(worker) end
end

-- The field of K.restored that says of a session that its lease is from an earlier grid.
local function from_before(session)
  return '@' .. session
end

-- Gives back the seats that a proxy's sessions hold, each with its lifetime where `refunds` names it. Returns how
-- many held one. One worker after the other, so that what is damaged of one hinders no other.
local function give_back(proxy, sessions, refunds)
  local leases, workers, ended = K.leases .. proxy, {}, {}
  for i, worker in ipairs(call('HMGET', leases, unpack(sessions))) do
    if worker then
      if not ended[worker] then
        workers[#workers + 1] = worker
        ended[worker] = { refunded = 0 }
      end
      local of = ended[worker]
      of[#of + 1] = sessions[i]
      -- What is remembered of an earlier grid may have it out of the lifetime already.
      if refunds[sessions[i]] and call('HEXISTS', K.restored, from_before(sessions[i])) == 0 then
        of.refunded = of.refunded + 1
      end
    end
  end
  local given = 0
  for _, worker in ipairs(workers) do
    local of = ended[worker]
    call('HDEL', K.seats .. worker, unpack(of))
    local n = call('HDEL', leases, unpack(of))
    given = given + n
    if on_the_books(worker) then
      add(K.refunds, worker, of.refunded)
      change(worker, -n, -of.refunded)
    end
  end
  return given
end

-- Takes a session out of the line, if it waits there.
local function leave_line(proxy, session)
  local waiting = K.waiting .. proxy
  local lane = (call('HGET', waiting, session) or ''):match('^%d+ ([^\n]*)\n')
  if lane then
    call('HDEL', waiting, session)
    call('ZREM', K.lane .. lane, session .. ' ' .. proxy)
  end
end

-- Sees to it that a worker has as many seats taken as somebody remembers. Returns how many ghosts
-- that took; their counting is up to the caller.
local function remember_seats(worker, active)
  if active == 0 or call('EXISTS', K.ghosts) == 0 then return 0 end
  local held = call('HLEN', K.seats .. worker)
  for _ = held + 1, active do
    local session = 'ghost:' .. rise()
    call('HSET', K.leases .. GHOSTS, session, worker)
    call('HSET', K.seats .. worker, session, GHOSTS)
  end
  return math.max(active - held, 0)
end

-- A session that was counted before takes its seat again: a ghost of the worker goes, if it has one.
local function end_ghost(worker)
  if call('EXISTS', K.leases .. GHOSTS) == 0 then return false end
  for _, session in ipairs(call('HKEYS', K.seats .. worker)) do
    if session:sub(1, 6) == 'ghost:' then
      call('HDEL', K.leases .. GHOSTS, session)
      call('HDEL', K.seats .. worker, session)
      return true
    end
  end
  return false
end

-- Whether ghosts are left whose time is over.
local function ghosts_due()
  return call('EXISTS', K.leases .. GHOSTS) == 1 and call('EXISTS', K.ghosts) == 0
end

-- Whether this connection still speaks for its proxy. Once a newer connection said hello, or the
-- identity expired, what an older one sent must take no effect.
local function fenced(proxy, epoch)
  return call('GET', K.proxy .. proxy) ~= epoch
end

local FENCED = redis.error_reply('FENCED this connection does not speak for its proxy any more')
