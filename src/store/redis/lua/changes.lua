-- Reads what has changed of the fleet.
--
-- KEYS  1: the name of the grid
-- ARGV  1: the name the caller knows, 2: the revision up to which it has read, 3: most workers of each
--       kind
-- Returns {the revision up to which it has read then, the revision of what follows, {worker, active,
--       lifetime, ...}, {for each whose record changed: {worker, active, lifetime, {field, value,
--       ...}}}, workers that are gone, how many there are}; the first is 0 if the caller has to read
--       the whole fleet; FENCED
-- Atomic because counts and revision belong together, and because nothing may change between them
--       that is not read the next time.
-- Cost: some commands for each worker that changed, however many there are and however often it did.

if call('GET', KEYS[1]) ~= ARGV[1] then return FENCED end
local since, most, revision = tonumber(ARGV[2]), tonumber(ARGV[3]), revision_now()
local workers = call('ZCARD', K.workers)
if since < (tonumber(call('GET', K.forgotten)) or 0) then return { 0, revision, {}, {}, {}, workers } end

local up_to = revision
local function changed(key)
  local found = call('ZRANGEBYSCORE', key, '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  local names = {}
  for i = 1, #found, 2 do names[#names + 1] = found[i] end
  if #names == most then up_to = math.min(up_to, tonumber(found[#found])) end
  return names
end

local counts, names = {}, changed(K.changed)
if #names > 0 then
  local active = call('HMGET', K.active, unpack(names))
  local lifetime = call('HMGET', K.lifetime, unpack(names))
  for i, worker in ipairs(names) do
    local n = 3 * i
    counts[n - 2], counts[n - 1], counts[n] = worker, whole(active[i]) or 0, whole(lifetime[i]) or 0
  end
end

local records = {}
for _, worker in ipairs(changed(K.records)) do
  local fields = redis.pcall('HGETALL', K.worker .. worker)
  if not fields.err and alive(K.worker .. worker) then
    records[#records + 1] = { worker, count(K.active, worker), count(K.lifetime, worker), fields }
  end
end

local gone = {}
for _, worker in ipairs(changed(K.gone)) do
  if not call('ZSCORE', K.workers, worker) then gone[#gone + 1] = worker end
end
return { up_to, revision, counts, records, gone, workers }
