-- Writes a worker's record.
--
-- KEYS  1: the record
-- ARGV  1: worker, 2: TTL in ms, 3: how many sessions the worker was ever given and how many it has, as it remembers, and the
--       grid in which they were so (empty: none), each behind a blank, then field, value, ...
-- Returns {active, lifetime, revision}
-- A record that says what it said before is not announced: who keeps it alive by writing it again
-- wakes nobody.
-- Atomic because the record must not be seen without its TTL (that is a dead worker) or without
--       its counters.

local function said()
  local flat, fields = redis.pcall('HGETALL', KEYS[1]), {}
  for i = 1, #flat, 2 do
    if not MEASURED[flat[i]] then fields[flat[i]] = flat[i + 1] end
  end
  return fields
end

local before, booked = said(), on_the_books(ARGV[1])
call('DEL', KEYS[1])
call('HSET', KEYS[1], unpack(ARGV, 4))
call('PEXPIRE', KEYS[1], ARGV[2])
local lifetime, active, grid = ARGV[3]:match('^(%d+) (%d+) (%S*)$')
lifetime = tonumber(lifetime)
local earlier = grid ~= '' and grid ~= call('GET', K.grid)
local more, missing = remember_seats(ARGV[1], tonumber(active)), 0
enter(ARGV[1], tonumber(ARGV[2]), lifetime, earlier)
if booked and earlier then missing = lifetime_missing(ARGV[1], lifetime, count(K.lifetime, ARGV[1])) end
if booked and more + missing > 0 then change(ARGV[1], more, missing) end
local news = not booked
for name, value in pairs(said()) do
  news = news or before[name] ~= value
  before[name] = nil
end
if news or next(before) then return { announce(ARGV[1]) } end
return { count(K.active, ARGV[1]), count(K.lifetime, ARGV[1]), revision_now() }
