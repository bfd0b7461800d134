-- Writes a worker's record.
--
-- KEYS  1: the record
-- ARGV  1: worker, 2: TTL in ms, 3: the lifetime the worker remembers, then field, value, ...
-- Returns {active, lifetime, revision}
-- Atomic because the record must not be seen without its TTL (that is a dead worker) or without
--       its counters.

call('DEL', KEYS[1])
call('HSET', KEYS[1], unpack(ARGV, 4))
call('PEXPIRE', KEYS[1], ARGV[2])
enter(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return { announce(ARGV[1]) }
