-- Gives back the seats of proxies whose identity expired, and removes workers whose record did.
--
-- KEYS  1: the caller's identity
-- ARGV  1: the caller, 2: its epoch, 3: most leases and most workers to handle in this call
-- Returns {seats given back, workers struck, 1 if there is more to do}; FENCED
-- Atomic because each seat is given back together with its lease: whoever comes second finds none,
--       and a proxy that returns finds exactly what was taken.

if fenced(ARGV[1], ARGV[2]) then return FENCED end
count_proxies()
local most = tonumber(ARGV[3])

local seats = 0
local function give_back_all(proxy)
  local leases = redis.pcall('HSCAN', K.leases .. proxy, 0, 'COUNT', most)
  if leases.err then
    call('DEL', K.leases .. proxy)
    return
  end
  local sessions = {}
  for i = 1, #leases[2], 2 do sessions[#sessions + 1] = leases[2][i] end
  if #sessions > 0 then seats = seats + give_back(proxy, sessions, {}) end
end

for _, proxy in ipairs(call('SMEMBERS', K.proxies)) do
  if seats >= most then break end
  if call('EXISTS', K.proxy .. proxy) == 0 and is_dead(proxy) then
    give_back_all(proxy)
    if call('EXISTS', K.leases .. proxy) == 0 then
      call('SREM', K.proxies, proxy)
      call('HDEL', K.pulse, 'dead:' .. proxy)
    end
  end
end
local of_proxies = seats
if ghosts_due() then give_back_all(GHOSTS) end

-- The score is when the record was last known to expire; whoever keeps it by hand with EXPIRE does
-- not move the score, so the record itself decides. One without TTL is a dead worker.
local workers, time = 0, now()
local overdue = {}
-- Redis itself was away: no worker is judged yet.
if judging() then overdue = call('ZRANGEBYSCORE', K.workers, '-inf', time, 'LIMIT', 0, most) end
for _, worker in ipairs(overdue) do
  local ttl = call('PTTL', K.worker .. worker)
  if ttl >= 0 then
    call('ZADD', K.workers, time + ttl, worker)
  else
    remove_worker(worker)
    workers = workers + 1
  end
end

return { of_proxies, workers, (seats >= most or #overdue >= most) and 1 or 0 }
