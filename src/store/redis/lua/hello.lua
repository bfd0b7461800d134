-- A proxy or worker has a new connection.
--
-- KEYS  1: the name of the grid, 2: the proxy's identity (absent for a worker)
-- ARGV  1: a name for the grid, if it needs one, 2: the highest revision seen, 3: the grid that was
--       known before (empty: none), 4: the one that was found without a mark (empty: none), 5: proxy,
--       6: epoch of the connection, 7: TTL of the identity in ms, 8: how many proxies it awaits where that is
--       another one than it knew (5 to 8 absent for a worker)
-- Returns {the grid's name, this clock in us, for how many ms those who knew an earlier one are awaited (a worker: 0)}
-- Atomic because from here on the epoch fences off everything that older connections of the same
--       proxy sent and Redis has not read yet, and because one of many must name the grid.

local grid = call('GET', KEYS[1])
local revision, seen = revision_now(), tonumber(ARGV[2])
-- Who comes second finds the grid that was begun by the first.
local started = ARGV[4] ~= '' and ARGV[4] == grid
if not grid or revision < seen or started then
  -- Redis came back empty, or older than it was, or may have. Everybody writes down again what is theirs.
  grid = ARGV[1]
  begin_anew(grid)
  -- Above what anybody saw, or the next to come would take this grid for an old one too.
  call('SET', K.revision, math.max(seen, revision, now()))
  revision = rise()
end
if ARGV[3] ~= '' and ARGV[3] ~= grid then
  -- Those who have not yet done so are remembered as ghosts.
  call('SET', K.ghosts, grid, 'PX', GHOSTS_TTL, 'NX')
end
local young = 0
if ARGV[5] then
  feel_pulse(tonumber(ARGV[7]))
  young = math.max((tonumber(call('HGET', K.pulse, 'counted')) or 0) - now(), 0)
  call('SET', KEYS[2], ARGV[6], 'PX', ARGV[7])
  enlist(ARGV[5], call('EXISTS', K.proxies) == 0)
  call('HDEL', K.pulse, 'dead:' .. ARGV[5])
  if ARGV[3] ~= '' and ARGV[3] ~= grid then
    await(tonumber(ARGV[8]))
    local held = call('EXISTS', K.restored) == 1 and call('HKEYS', K.leases .. ARGV[5]) or {}
    for _, session in ipairs(held) do call('HSET', K.restored, from_before(session), 1) end
  end
  -- Everybody's share for when Redis is away is one of so many, this proxy among them.
  call('PUBLISH', K.events, 'p ' .. count_proxies())
end
return { grid, micros(), young }
