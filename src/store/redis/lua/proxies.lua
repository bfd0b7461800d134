-- What scripts begin with, behind prelude.lua, that speak of proxies: which there are, which are alive, and what they
-- hold. A worker's user may not run them.

-- Puts a proxy among those that may hold seats. Where the others are lost, which is what this says, those
-- who hold seats are found by these.
local function enlist(proxy, lost)
  if call('SADD', K.proxies, proxy) == 0 or not lost then return false end
  for _, workers in ipairs({ call('HKEYS', K.active), call('ZRANGE', K.gone, 0, -1) }) do
    for _, worker in ipairs(workers) do
      for _, holder in ipairs(redis.pcall('HVALS', K.seats .. worker)) do
        if holder ~= GHOSTS then call('SADD', K.proxies, holder) end
      end
    end
  end
  return true
end

-- How many proxies are alive, and how many are not. Of those it is noted since when they are seen dead.
local function count_proxies()
  local alive, dead = 0, 0
  for _, proxy in ipairs(call('SMEMBERS', K.proxies)) do
    if call('EXISTS', K.proxy .. proxy) == 1 then
      alive = alive + 1
    else
      dead = dead + 1
      call('HSETNX', K.pulse, 'dead:' .. proxy, now())
    end
  end
  return alive, dead
end

-- Whether what K.pulse says is said of the grid that is here: an old Redis has the pulse of an earlier one.
local function is_present(grid)
  return grid == (call('GET', K.grid) or grid)
end

-- Notes that a proxy was heard, whose identity lives for `ttl` ms. After a time in which none was (Redis
-- was away, or there was none), the silent are judged only when all had some seconds to come back; the same
-- goes for a grid that was begun anew, which awaits those who knew an earlier one.
local function feel_pulse(ttl)
  local time, grace = now(), math.min(ttl, GRACE)
  local heard, judged, grid = unpack(call('HMGET', K.pulse, 'heard', 'judged', 'grid'))
  heard, judged = tonumber(heard), tonumber(judged)
  if not is_present(grid) then
    call('DEL', K.pulse)
    call('HSET', K.pulse, 'counted', time + AWAITED_TTL)
    -- An old Redis knows who held seats before; of an empty one those know who come back.
    local proxies = call('SCARD', K.proxies)
    if proxies > 0 then call('HSET', K.pulse, 'awaited', proxies) end
    heard = nil
  end
  if not heard or not judged or time - heard > ttl / 2 or judged - time > GRACE then
    call('HSET', K.pulse, 'heard', time, 'judged', time + grace, 'grace', grace, 'grid', call('GET', K.grid) or '')
  else
    call('HSET', K.pulse, 'heard', time)
  end
end

-- A proxy that knew an earlier grid knew of so many proxies, itself among them: all those are awaited.
local function await(proxies)
  local counted, awaited = unpack(call('HMGET', K.pulse, 'counted', 'awaited'))
  if counted and now() < tonumber(counted) and proxies > (tonumber(awaited) or 0) then
    call('HSET', K.pulse, 'awaited', proxies)
  end
end

-- Whether some of those who are awaited have not written down yet what they held: nobody else may know
-- whom they seated last.
local function being_counted()
  local counted, awaited, told = unpack(call('HMGET', K.pulse, 'counted', 'awaited', 'told'))
  if not counted or now() >= tonumber(counted) then return false end
  -- Where only workers knew an earlier grid, there was a proxy at least.
  awaited = tonumber(awaited) or call('EXISTS', K.ghosts)
  return (tonumber(told) or 0) < awaited
end

-- Whether the silent are judged. Whoever asks may be the first to be heard after Redis was away, by a
-- question that waited for it.
local function judging()
  local heard, judged, grace, grid = unpack(call('HMGET', K.pulse, 'heard', 'judged', 'grace', 'grid'))
  if not heard or not judged or not grace or not is_present(grid) then return false end
  local time = now()
  return time >= tonumber(judged) and time - tonumber(heard) <= tonumber(grace) / 2
end

-- Whether a proxy without identity counts as dead: nobody had to come back lately, or it has been seen
-- dead for as long as that takes, however often others came and went meanwhile.
local function is_dead(proxy)
  if judging() then return true end
  local since, grace, grid, judged = unpack(call('HMGET', K.pulse, 'dead:' .. proxy, 'grace', 'grid', 'judged'))
  if not since or not grace or not is_present(grid) then return false end
  -- While Redis was away nobody could come back.
  since = math.max(tonumber(since), (tonumber(judged) or 0) - tonumber(grace))
  return now() - since > tonumber(grace)
end
