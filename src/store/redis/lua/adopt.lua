-- Writes down seats that a proxy's sessions hold but Redis does not know of: for what happened
-- while Redis was away, and for a Redis that came back empty.
--
-- KEYS  1: the proxy's identity, 2: its leases
-- ARGV  1: proxy, 2: epoch, then triples:
--       session, worker, lifetime: the seat, and how much the session adds to the lifetime (0 when
--         an earlier reservation counted it)
--       '+', worker, n: sessions that came and went unseen
-- Returns {worker, active, lifetime, revision} of each worker on the books that has changed; FENCED
-- Atomic because lease and counters change together; a session that has its lease is left alone. Where a
--       session is, its proxy knows best.

local proxy = ARGV[1]
if fenced(proxy, ARGV[2]) then return FENCED end

-- Sessions of a worker that is off the books, which were told late.
local function lived_on(worker, sessions)
  if sessions == 0 then return end
  local key = K.silent .. worker
  if call('HEXISTS', K.lifetime, worker) == 1 then
    add(K.lifetime, worker, sessions)
  else
    local before = whole(call('GET', key)) or 0
    note_restored(worker, before)
    call('SET', key, before + sessions, 'PX', SILENT_TTL)
  end
end

local changed = {}
local function add_to(worker, active, lifetime)
  if on_the_books(worker) then
    changed[worker] = { worker, change(worker, active, lifetime) }
  else
    lived_on(worker, lifetime)
  end
end
for i = 3, #ARGV, 3 do
  local what, worker, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if what == '+' then
    add_to(worker, 0, n)
  else
    local held = call('HGET', KEYS[2], what)
    -- It is taken up in any case.
    call('HDEL', K.unconfirmed .. worker:match('^[^:]*'), what)
    if held ~= worker then
      -- An old Redis may still have it in line, and may have given it another seat.
      leave_line(proxy, what)
      if held then give_back(proxy, { what }, { [what] = true }) end
      call('HSET', KEYS[2], what, worker)
      -- Its seat may have outlived the lease, or be one that somebody remembered.
      local more = call('HSET', K.seats .. worker, what, proxy)
      if more == 1 and n == 0 and end_ghost(worker) then more = 0 end
      add_to(worker, more, n)
    end
  end
end
local counts = {}
for _, told in pairs(changed) do counts[#counts + 1] = told end
return counts
