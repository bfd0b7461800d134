-- Lists the workers.
--
-- KEYS  1: the name of the grid
-- ARGV  1: the name the caller knows
-- Returns the workers; FENCED
-- Atomic because an empty list and a Redis that was emptied have to be told apart.

if call('GET', KEYS[1]) ~= ARGV[1] then return FENCED end
return call('ZRANGE', K.workers, 0, -1)
