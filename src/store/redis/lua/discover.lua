-- Enters workers that wrote their record by themselves, as those of the original do. A heartbeat of
-- theirs that found no record left a fragment, which is no worker.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns {how many were new, then the names of those that are no record at all}
-- Atomic because counters are created only where there are none.

local answer = { 0 }
for i, worker in ipairs(ARGV) do
  local ttl = call('PTTL', KEYS[i])
  if call('TYPE', KEYS[i]).ok ~= 'hash' then
    if ttl ~= -2 then answer[#answer + 1] = KEYS[i] end
  elseif ttl >= 0 and field(KEYS[i], 'endpoint') and not call('ZSCORE', K.workers, worker) then
    enter(worker, ttl, 0)
    announce(worker)
    answer[1] = answer[1] + 1
  end
end
return answer
