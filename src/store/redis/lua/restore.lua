-- Writes down workers as a proxy remembers them, into a Redis that came back empty or old. They
-- live for a moment, until their own heartbeat takes over.
--
-- KEYS  1: the proxy's identity, 2: its leases, then the records
-- ARGV  1: proxy, 2: epoch, 3: TTL in ms, then for each record: worker, the lifetime and the active
--       sessions remembered, how many arguments its fields take (0: it fell silent, and only its
--       lifetime is remembered), field, value, ...
-- Returns how many were missing; FENCED
-- Atomic because a record must not be seen without TTL or counters, and because what the worker
--       itself wrote in the meantime is better than any memory of it.

if fenced(ARGV[1], ARGV[2]) then return FENCED end

-- The lifetime of a worker that is off the books, for its return.
local function remember_silent(worker, lifetime)
  local key = K.silent .. worker
  local known = whole(call('GET', key)) or 0
  note_restored(worker, known)
  call('SET', key, known + lifetime_missing(worker, lifetime, known), 'PX', SILENT_TTL)
end

local ttl = tonumber(ARGV[3])

local missing, i, record = 0, 4, 3
while i <= #ARGV do
  local worker, n = ARGV[i], tonumber(ARGV[i + 3])
  local lifetime, active = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  -- A worker of the original leaves a fragment when its heartbeat finds no record.
  if n > 0 and not field(KEYS[record], 'endpoint') then
    call('DEL', KEYS[record])
    call('HSET', KEYS[record], unpack(ARGV, i + 4, i + 3 + n))
    call('PEXPIRE', KEYS[record], ttl)
    missing = missing + 1
  end
  local more, booked = remember_seats(worker, active), on_the_books(worker)
  local left = call('PTTL', KEYS[record])
  if n == 0 and not booked then
    remember_silent(worker, lifetime)
  elseif left >= 0 and not (booked and call('ZSCORE', K.workers, worker)) then
    enter(worker, left, lifetime, true)
  end
  if booked then
    -- Several proxies remember: the highest stays.
    local missing = lifetime_missing(worker, lifetime, count(K.lifetime, worker))
    if more + missing > 0 then change(worker, more, missing) end
  elseif on_the_books(worker) then
    -- Who was here before may have read the fleet without it.
    announce(worker)
  end
  i, record = i + 4 + n, record + 1
end
return missing
