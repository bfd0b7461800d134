-- Writes down how many sessions of a tenant a proxy has, if all proxies together then have no more
-- than they may have.
--
-- KEYS  1: what proxies have of the tenant: proxy -> "{version} {sessions}"
-- ARGV  1: proxy, 2: version of its count, 3: its count, 4: most in the grid (-1: any number),
--       5: TTL of KEYS[1] in ms
-- Returns 1 if this, or something newer of the same proxy, is written down; 0 if they are too many
-- Atomic because two proxies must not take the last one. Not fenced: the newest version stands,
--       whichever connection it came by.

local version, mine, others = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
local flat = call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local at, sessions = flat[i + 1]:match('^(%d+) (%d+)$')
  if at and flat[i] == ARGV[1] then
    if tonumber(at) > version then version, mine = tonumber(at), tonumber(sessions) end
  elseif at and call('EXISTS', K.proxy .. flat[i]) == 1 then
    others = others + tonumber(sessions)
  else
    call('HDEL', KEYS[1], flat[i])
  end
end

local most = tonumber(ARGV[4])
if most >= 0 and mine + others > most then return 0 end
call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', version, mine))
call('PEXPIRE', KEYS[1], ARGV[5])
return 1
