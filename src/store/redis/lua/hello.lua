-- A proxy or worker has a new connection.
--
-- KEYS  1: the name of the grid, 2: the proxy's identity (absent for a worker)
-- ARGV  1: a name for the grid, if it has none yet, 2: the highest revision seen, 3: proxy,
--       4: epoch of the connection, 5: TTL of the identity in ms (3 to 5 absent for a worker)
-- Returns {the grid's name, the revision}
-- Atomic because from here on the epoch fences off everything that older connections of the same
--       proxy sent and Redis has not read yet, and because one of many must name an empty grid.

local grid = call('GET', KEYS[1])
if not grid then
  grid = ARGV[1]
  call('SET', KEYS[1], grid)
  call('PUBLISH', K.reset, grid)
end
local revision = tonumber(call('GET', K.revision) or 0)
if revision < tonumber(ARGV[2]) then
  revision = tonumber(ARGV[2])
  call('SET', K.revision, ARGV[2])
end
if ARGV[3] then
  call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  call('SADD', K.proxies, ARGV[3])
  -- Everybody's share for when Redis is away is one of so many now, this proxy's too.
  call('PUBLISH', K.events, 'p ' .. count_proxies())
end
return { grid, revision }
