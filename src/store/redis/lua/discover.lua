-- Enters workers that wrote their record by themselves, as those of the original do, and tells of
-- records that somebody changed by hand. A heartbeat of theirs that found no record left a fragment,
-- which is no worker.
--
-- KEYS  the records
-- ARGV  for each: worker, and its status as the caller knows it (empty: it knows none)
-- Returns {how many were new, then the names of those that are no record at all}
-- Atomic because counters are created only where there are none.

local answer = { 0 }
for i = 1, #KEYS do
  local worker, known = ARGV[2 * i - 1], ARGV[2 * i]
  local ttl = call('PTTL', KEYS[i])
  if call('TYPE', KEYS[i]).ok ~= 'hash' then
    if ttl ~= -2 then answer[#answer + 1] = KEYS[i] end
  elseif ttl >= 0 and field(KEYS[i], 'endpoint') then
    if not call('ZSCORE', K.workers, worker) then
      enter(worker, ttl, 0)
      announce(worker)
      answer[1] = answer[1] + 1
    elseif known ~= '' and field(KEYS[i], 'status') ~= known then
      announce(worker)
    end
  end
end
return answer
