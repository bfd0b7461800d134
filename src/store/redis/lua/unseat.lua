-- Takes seats away that have no lease, which the caller has seen twice.
--
-- KEYS  none
-- ARGV  worker, session, ...
-- Returns how many there were
-- Atomic because the seat's count goes with it, and because its lease may have come back.

local taken = 0
for i = 1, #ARGV, 2 do
  local worker, session = ARGV[i], ARGV[i + 1]
  local proxy = call('HGET', K.seats .. worker, session)
  if proxy and call('HGET', K.leases .. proxy, session) ~= worker then
    call('HDEL', K.seats .. worker, session)
    if on_the_books(worker) then change(worker, -1, 0) end
    taken = taken + 1
  end
end
return taken
