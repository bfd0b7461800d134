-- Writes the seats down again that a proxy's leases speak of, where they were lost.
--
-- KEYS  1: the proxy's leases
-- ARGV  1: proxy, then sessions
-- Returns how many were missing
-- Atomic because a lease may be given back at any moment. Counters are left to the sweep.

local missing = 0
for i = 2, #ARGV do
  local worker = call('HGET', KEYS[1], ARGV[i])
  if worker then missing = missing + call('HSETNX', K.seats .. worker, ARGV[i], ARGV[1]) end
end
return missing
