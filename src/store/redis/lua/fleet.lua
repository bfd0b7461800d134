-- Reads some workers with their counters.
--
-- KEYS  1: the name of the grid, then the records
-- ARGV  1: the name the caller knows, then the workers, in the same order
-- Returns {revision, {for each that is alive: {worker, active, lifetime, {field, value, ...}}}};
--       FENCED
-- Atomic because counts and revision belong together: any later change has a higher revision, so
--       that who hears of both knows which is newer.

if call('GET', KEYS[1]) ~= ARGV[1] then return FENCED end

local fleet = {}
for i = 2, #ARGV do
  local worker = ARGV[i]
  local fields = redis.pcall('HGETALL', KEYS[i])
  if not fields.err and alive(KEYS[i]) then
    -- Shares for when Redis is away come from it: a count that was lost is not none.
    local active = mended(K.active, worker, call('HGET', K.active, worker))
    fleet[#fleet + 1] = { worker, active, count(K.lifetime, worker), fields }
  elseif call('ZSCORE', K.workers, worker) then
    -- Gone before its time, by hand or by a worker of the original: due for the reaper.
    call('ZADD', K.workers, 0, worker)
  end
end
return { revision_now(), fleet }
