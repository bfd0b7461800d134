-- Writes a worker's record.
--
-- KEYS  1: the record
-- ARGV  1: worker, 2: TTL in ms, 3: the lifetime that the worker remembers, and behind a blank
--       its active sessions if it remembers them, then field, value, ...
-- Returns {active, lifetime, revision}
-- Atomic because the record must not be seen without its TTL (that is a dead worker) or without
--       its counters.

call('DEL', KEYS[1])
call('HSET', KEYS[1], unpack(ARGV, 4))
call('PEXPIRE', KEYS[1], ARGV[2])
local lifetime, active = ARGV[3]:match('^(%d+) ?(%d*)$')
local more, booked = remember_seats(ARGV[1], tonumber(active) or 0), on_the_books(ARGV[1])
enter(ARGV[1], tonumber(ARGV[2]), tonumber(lifetime))
if booked and more > 0 then change(ARGV[1], more, 0) end
return { announce(ARGV[1]) }
