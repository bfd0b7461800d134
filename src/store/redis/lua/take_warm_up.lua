-- Takes a permit to warm a browser up, if one is left.
--
-- KEYS  1: who has one
-- ARGV  1: worker, 2: most permits, 3: for how long at most in ms
-- Returns 1 if it has one, else 0
-- Atomic because two workers must not take the last one.

call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
local has = call('ZSCORE', KEYS[1], ARGV[1])
if not has and call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
call('ZADD', KEYS[1], now() + ARGV[3], ARGV[1])
return 1
