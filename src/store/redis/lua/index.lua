-- Lists the workers.
--
-- KEYS  1: the name of the grid
-- ARGV  1: the name the caller knows
-- Returns {revision, workers}; FENCED
-- Atomic because an empty list and a Redis that was emptied have to be told apart.

if call('GET', KEYS[1]) ~= ARGV[1] then return FENCED end
local workers = call('ZRANGE', K.workers, 0, -1)
if call('HLEN', K.active) > #workers then
  -- The list may have been lost. Who has a counter and a record belongs on it.
  local listed = {}
  for _, worker in ipairs(workers) do listed[worker] = true end
  for _, worker in ipairs(call('HKEYS', K.active)) do
    local ttl = listed[worker] and -1 or call('PTTL', K.worker .. worker)
    if ttl >= 0 then
      call('ZADD', K.workers, now() + ttl, worker)
      workers[#workers + 1] = worker
    end
  end
end
return { revision_now(), workers }
