-- Gives a session a seat on the first candidate that is alive, available and not full, unless it is
-- for somebody who has waited longer at another proxy.
--
-- KEYS  1: the proxy's identity, 2: its leases, then the record of each candidate
-- ARGV  1: proxy, 2: epoch, 3: session, 4: the line it stands in (empty: none), 5: how long it has
--       waited, in ms (0: it only just came), then for each candidate: worker, most active, most
--       lifetime (-1 for no limit)
-- Returns {'seat', worker, active, lifetime, revision}, {'full', revision, worker, active,
--       lifetime, ...}, {'behind'} (there are seats, for those who came first) or {'gone'}; FENCED
-- Atomic because the counters are read, judged and changed: two proxies after one seat must not
--       both get it, and the lease must appear together with the count.
-- Cost: a few commands for each candidate, and one for each proxy where somebody waits, whatever
--       the number of workers.

-- How long the first in a proxy's line counts as waiting since it last asked, in ms.
local WAITS = 600
-- How long a seat is kept for those ahead, in ms. They may be unable to reach its worker.
local KEPT = 200

local proxy, epoch, session = ARGV[1], ARGV[2], ARGV[3]
if fenced(proxy, epoch) then return FENCED end

local held = call('HGET', KEYS[2], session)
if held then
  if on_the_books(held) then
    return { 'seat', held, count(K.active, held), count(K.lifetime, held), call('GET', K.revision) }
  end
  give_back(proxy, session, false)
end

local in_line, line, offers = ARGV[4] ~= '', K.line .. ARGV[4], K.offers .. ARGV[4]
local waited, time = tonumber(ARGV[5]), now()

-- Of each proxy's line the first is known, with when it came and until when that is believed.
local function count_ahead()
  local ahead, firsts = 0, call('HGETALL', line)
  for i = 1, #firsts, 2 do
    local came, believed = firsts[i + 1]:match('^(%d+) (%d+)$')
    if tonumber(believed) <= time then
      call('HDEL', line, firsts[i])
    elseif firsts[i] ~= proxy and tonumber(came) < time - waited then
      ahead = ahead + 1
    end
  end
  return ahead
end

local function goes_on_waiting()
  if not in_line or waited == 0 then return end
  call('HSET', line, proxy, string.format('%d %d', time - waited, time + WAITS))
  call('PEXPIRE', line, WAITS)
end

-- Whether a worker has had a seat for so long that those ahead had their chance. Every seat that
-- is taken changes its counts.
local function left_alone(worker, a, l)
  local counts = a .. ' ' .. l
  local seen, since = (call('HGET', offers, worker) or ''):match('^(%d+ %d+) (%d+)$')
  if seen == counts then return time - tonumber(since) >= KEPT end
  call('HSET', offers, worker, string.format('%s %d', counts, time))
  call('PEXPIRE', offers, 10 * WAITS)
  return false
end

local workers = {}
for i = 6, #ARGV, 3 do workers[#workers + 1] = ARGV[i] end
if #workers == 0 then
  goes_on_waiting()
  return { 'gone' }
end
local active = call('HMGET', K.active, unpack(workers))
local lifetime = call('HMGET', K.lifetime, unpack(workers))

local ahead, behind = in_line and count_ahead() or 0, false
local full = { 'full', call('GET', K.revision) or '0' }
for i, worker in ipairs(workers) do
  local record = KEYS[2 + i]
  if call('HGET', record, 'status') == 'available' and alive(record) then
    local a, l = tonumber(active[i] or 0) or 0, tonumber(lifetime[i] or 0) or 0
    local most_active, most_lifetime = tonumber(ARGV[4 + 3 * i]), tonumber(ARGV[5 + 3 * i])
    local seats = most_active - a
    if most_lifetime >= 0 then seats = math.min(seats, most_lifetime - l) end
    if seats > ahead or (seats > 0 and left_alone(worker, a, l)) then
      if in_line then call('HDEL', line, proxy) end
      call('HSET', KEYS[2], session, worker)
      call('HSET', K.seats .. worker, session, proxy)
      local revision
      a, l, revision = change(worker, 1, 1)
      return { 'seat', worker, a, l, revision }
    elseif seats > 0 then
      ahead, behind = ahead - seats, true
    else
      full[#full + 1] = worker
      full[#full + 1] = a
      full[#full + 1] = l
    end
  end
end

goes_on_waiting()
if behind then return { 'behind' } end
if #full == 2 then return { 'gone' } end
return full
