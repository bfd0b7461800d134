-- A proxy has written down all that it knew of an earlier grid: new seats do not wait for it.
--
-- KEYS  1: the proxy's identity, 2: its leases
-- ARGV  1: proxy, 2: epoch
-- Returns how many have done so, as far as they were awaited; FENCED
-- Atomic because each is counted once, however often its connection is lost meanwhile.

if fenced(ARGV[1], ARGV[2]) then return FENCED end
if being_counted() and call('HSETNX', K.pulse, 'told:' .. ARGV[1], 1) == 1 then
  return call('HINCRBY', K.pulse, 'told', 1)
end
return tonumber(call('HGET', K.pulse, 'told')) or 0
