-- Takes a worker off the books, with the seats that sessions hold on it.
--
-- KEYS  1: the worker's seats
-- ARGV  1: worker
-- Returns how many seats there were
-- Atomic because its counters go together with the leases they count.

local worker = ARGV[1]
local seats = call('HGETALL', KEYS[1])
for i = 1, #seats, 2 do call('HDEL', K.leases .. seats[i + 1], seats[i]) end
call('DEL', KEYS[1])
remove_worker(worker)
-- It does not come back.
call('DEL', K.silent .. worker)
return #seats / 2
