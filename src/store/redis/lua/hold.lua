-- Writes down how much a holder has of what is bounded in the whole grid, if all holders together
-- then have no more than the bound.
--
-- KEYS  1: the permits of a pool: holder -> "{version} {weight} {when it lapses, in ms}"
-- ARGV  1: holder, 2: 1 if holders are proxies, 3: version of its word, 4: its weight, 5: most in the
--       grid (-1: any number), 6: for how long at most in ms
-- Returns 1 if this, or something newer of the same holder, is written down; 0 if it is too much
-- Atomic because two holders must not take the last one. Not fenced: the newest version stands,
--       whichever connection it came by.

local time, ttl = now(), tonumber(ARGV[6])
local version, mine, others = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
local held = call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local at, weight, lapses = held[i + 1]:match('^(%d+) (%d+) (%d+)$')
  local holds = at and tonumber(lapses) > time
    and (ARGV[2] == '0' or call('EXISTS', K.proxy .. held[i]) == 1)
  if at and held[i] == ARGV[1] then
    if tonumber(at) > version then version, mine = tonumber(at), tonumber(weight) end
  elseif holds then
    others = others + tonumber(weight)
  else
    call('HDEL', KEYS[1], held[i])
  end
end

local bound = tonumber(ARGV[5])
if bound >= 0 and mine + others > bound then return 0 end
call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %.0f', version, mine, time + ttl))
if call('PTTL', KEYS[1]) < ttl then call('PEXPIRE', KEYS[1], ttl) end
return 1
