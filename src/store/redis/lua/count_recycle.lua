-- Counts that a worker is being recycled.
--
-- KEYS  1: the record, 2: the recycles by reason
-- ARGV  1: reason
-- Returns 1, or 0 if the worker was counted before or is not there
-- Atomic because a call whose answer was lost is repeated, and must not count twice.

if not field(KEYS[1], 'endpoint') then return 0 end
if call('HSETNX', KEYS[1], 'recycled', ARGV[1]) == 0 then return 0 end
call('HINCRBY', KEYS[2], ARGV[1], 1)
return 1
