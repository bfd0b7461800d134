-- Puts a proxy's question to all others.
--
-- KEYS  none
-- ARGV  1: a name for the inquiry, 2: the proxy that asks, 3: the question
-- Returns the other proxies that are alive: who has to answer
-- Atomic so that whoever is counted on was there when the question was told. Not fenced, for it
--       changes nothing.

local others = {}
for _, proxy in ipairs(call('SMEMBERS', K.proxies)) do
  if proxy ~= ARGV[2] and call('EXISTS', K.proxy .. proxy) == 1 then others[#others + 1] = proxy end
end
if #others > 0 then
  call('PUBLISH', K.events, '? ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
end
return others
