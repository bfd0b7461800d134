-- Reads some workers with their counters.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns {revision, {for each that is alive: {worker, active, lifetime, {field, value, ...}}}}
-- Atomic because counts and revision belong together: any later change has a higher revision, so
--       that who hears of both knows which is newer.

local fleet = {}
for i, worker in ipairs(ARGV) do
  if alive(KEYS[i]) then
    fleet[#fleet + 1] = {
      worker, count(K.active, worker), count(K.lifetime, worker), call('HGETALL', KEYS[i]),
    }
  elseif call('ZSCORE', K.workers, worker) then
    -- Gone before its time, by hand or by a worker of the original: due for the reaper.
    call('ZADD', K.workers, 0, worker)
  end
end
return { call('GET', K.revision) or '0', fleet }
