-- Enters workers that wrote their record by themselves, as those of the original do. A heartbeat of
-- theirs that found no record left a fragment, which is no worker.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns how many were new
-- Atomic because counters are created only where there are none.

local new = 0
for i, worker in ipairs(ARGV) do
  local ttl = call('PTTL', KEYS[i])
  local whole = call('HEXISTS', KEYS[i], 'endpoint') == 1
  if ttl >= 0 and whole and not call('ZSCORE', K.workers, worker) then
    enter(worker, ttl, 0)
    announce(worker)
    new = new + 1
  end
end
return new
