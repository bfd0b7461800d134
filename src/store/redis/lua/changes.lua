-- Lists the workers that have changed since a revision.
--
-- KEYS  1: the name of the grid
-- ARGV  1: the name the caller knows, 2: the revision
-- Returns {revision, 1 if it is known what has changed else 0, those that have, those that are gone};
--       FENCED
-- Atomic because the lists and the revision belong together: of everything up to that revision the
--       caller knows then.

if call('GET', KEYS[1]) ~= ARGV[1] then return FENCED end

local since = tonumber(ARGV[2])
local first = call('ZRANGE', K.gone, 0, 0, 'WITHSCORES')
local forgotten = call('ZCARD', K.gone) >= GONE_REMEMBERED and tonumber(first[2]) > since
local lost = call('ZCARD', K.changed) == 0 and call('ZCARD', K.workers) > 0
if forgotten or lost then return { revision_now(), 0, {}, {} } end

local gone = {}
for _, worker in ipairs(call('ZRANGEBYSCORE', K.gone, since + 1, '+inf')) do
  -- It may have come back.
  if not call('ZSCORE', K.changed, worker) then gone[#gone + 1] = worker end
end
return { revision_now(), 1, call('ZRANGEBYSCORE', K.changed, since + 1, '+inf'), gone }
