-- A proxy leaves for good. What it still holds is given back as if it had died.
--
-- KEYS  1: the proxy's identity, 2: its leases
-- ARGV  1: proxy, 2: epoch
-- Returns 1, or 0 if this connection does not speak for the proxy
-- Atomic because a proxy without leases must not vanish from the set while it gets one.

if fenced(ARGV[1], ARGV[2]) then return 0 end
call('DEL', KEYS[1], K.waiting .. ARGV[1])
if call('EXISTS', KEYS[2]) == 0 then call('SREM', K.proxies, ARGV[1]) end
return 1
