-- Gives a session a seat on the first candidate that is alive, available and not full, whoever
-- waits in line, and whoever is awaited since Redis came back empty or old.
--
-- KEYS  1: the proxy's identity, 2: its leases, then the record of each candidate
-- ARGV  1: proxy, 2: epoch, 3: session, then for each candidate: worker, most active, most lifetime
--       (-1 for no limit)
-- Returns {'seat', worker, active, lifetime, revision}, {'full', revision, worker, active,
--       lifetime, ...} or {'gone'}; FENCED
-- Atomic because the counters are read, judged and changed: two proxies after one seat must not
--       both get it, and the lease must appear together with the count.
-- Cost: a few commands for each candidate, whatever the number of workers.

local proxy, epoch, session = ARGV[1], ARGV[2], ARGV[3]
if fenced(proxy, epoch) then return FENCED end

local held = call('HGET', KEYS[2], session)
if held then
  if on_the_books(held) then
    return { 'seat', held, count(K.active, held), count(K.lifetime, held), revision_now() }
  end
  give_back(proxy, { session }, {})
end

local workers = {}
for i = 4, #ARGV, 3 do workers[#workers + 1] = ARGV[i] end
if #workers == 0 then return { 'gone' } end
local active = call('HMGET', K.active, unpack(workers))
local lifetime = call('HMGET', K.lifetime, unpack(workers))

local full = { 'full', revision_now() }
for i, worker in ipairs(workers) do
  local record = KEYS[2 + i]
  if field(record, 'status') == 'available' and alive(record) then
    local a, l = mended(K.active, worker, active[i]), mended(K.lifetime, worker, lifetime[i])
    local most_active, most_lifetime = tonumber(ARGV[2 + 3 * i]), tonumber(ARGV[3 + 3 * i])
    if a < most_active and (most_lifetime < 0 or l < most_lifetime) then
      call('HSET', KEYS[2], session, worker)
      call('HSET', K.seats .. worker, session, proxy)
      local revision
      a, l, revision = change(worker, 1, 1)
      return { 'seat', worker, a, l, revision }
    end
    full[#full + 1] = worker
    full[#full + 1] = a
    full[#full + 1] = l
  end
end

if #full == 2 then return { 'gone' } end
return full
