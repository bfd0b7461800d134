-- Writes down workers as a proxy remembers them, into a Redis that came back empty. They live for
-- a moment, until their own heartbeat takes over.
--
-- KEYS  1: the proxy's identity, 2: its leases, then the records
-- ARGV  1: proxy, 2: epoch, 3: TTL in ms, then for each record: worker, the lifetime remembered,
--       how many arguments its fields take, field, value, ...
-- Returns how many were missing; FENCED
-- Atomic because a record must not be seen without TTL or counters, and because what the worker
--       itself wrote in the meantime is better than any memory of it.

if fenced(ARGV[1], ARGV[2]) then return FENCED end
local ttl = tonumber(ARGV[3])

local missing, i, record = 0, 4, 3
while i <= #ARGV do
  local worker, lifetime, n = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  -- A worker of the original leaves a fragment when its heartbeat finds no record.
  if call('HEXISTS', KEYS[record], 'endpoint') == 0 then
    call('HSET', KEYS[record], unpack(ARGV, i + 3, i + 2 + n))
    call('PEXPIRE', KEYS[record], ttl)
    enter(worker, ttl, lifetime)
    missing = missing + 1
  end
  if on_the_books(worker) and count(K.lifetime, worker) < lifetime then
    -- Several proxies remember: the highest stays.
    change(worker, 0, lifetime - count(K.lifetime, worker))
  end
  i, record = i + 3 + n, record + 1
end
return missing
