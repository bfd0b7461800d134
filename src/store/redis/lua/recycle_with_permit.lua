-- Orders a worker to recycle itself, if it is its turn to be out of service.
--
-- KEYS  1: the record, 2: the order, 3: the turns of its browser
-- ARGV  1: worker, 2: TTL of the order in ms, 3: most workers out, 4: length of a turn in ms
-- Returns 1 if it was ordered, else 0
-- Atomic because two proxies must not give the last turn to two workers.

if call('EXISTS', KEYS[1]) == 0 then return 0 end
local out = 0
local turns = call('HGETALL', KEYS[3])
for i = 1, #turns, 2 do
  if tonumber(turns[i + 1]) <= now() then
    call('HDEL', KEYS[3], turns[i])
  elseif turns[i] ~= ARGV[1] then
    out = out + 1
  end
end
if out >= tonumber(ARGV[3]) then return 0 end
call('HSETNX', KEYS[3], ARGV[1], now() + ARGV[4])
call('SET', KEYS[2], K.shutdown, 'PX', ARGV[2])
call('PUBLISH', KEYS[2], K.shutdown)
return 1
