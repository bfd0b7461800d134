-- A worker's sign of life.
--
-- KEYS  1: the record, 2: the order to recycle
-- ARGV  1: worker, 2: TTL in ms, then field, value, ..., and last, if the worker remembers it, how many
--       sessions it was ever given
-- Returns {1 if an order stands else 0, active, lifetime, revision, ever given}, or {} if the record is gone
-- Atomic because a record that expired must not come back as a fragment without an endpoint.

if not field(KEYS[1], 'endpoint') then return {} end
local worker, changed = ARGV[1], false
local remembered = #ARGV % 2 == 1 and tonumber(table.remove(ARGV)) or 0
for i = 3, #ARGV, 2 do
  if not MEASURED[ARGV[i]] and call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then changed = true end
end
call('HSET', KEYS[1], unpack(ARGV, 3))
call('PEXPIRE', KEYS[1], ARGV[2])
-- A count that was lost is not made of the seats, which may have been lost too: whoever gives one has it counted.
call('ZADD', K.workers, now() + tonumber(ARGV[2]), worker)
local unknown = remembered - ever_given(worker)
if unknown > 0 then change(worker, 0, unknown) end
if changed then announce(worker) end
return {
  call('EXISTS', KEYS[2]), count(K.active, worker), count(K.lifetime, worker),
  revision_now(), ever_given(worker),
}
