-- A proxy's sign of life.
--
-- KEYS  1: the proxy's identity
-- ARGV  1: proxy, 2: epoch, 3: TTL of the identity in ms
-- Returns {proxies alive, 1 if there is something to reap}; FENCED
-- Atomic because an identity that expired, or that a newer connection owns, must not be extended.

if fenced(ARGV[1], ARGV[2]) then return FENCED end
call('PEXPIRE', KEYS[1], ARGV[3])

local alive, dead = count_proxies()
local overdue = call('ZCOUNT', K.workers, '-inf', now())
return { alive, (dead + overdue > 0) and 1 or 0 }
