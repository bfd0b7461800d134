-- A worker's sign of life.
--
-- KEYS  1: the record, 2: the order to recycle
-- ARGV  1: worker, 2: TTL in ms, then field, value, ...
-- Returns {1 if an order stands else 0, active, lifetime, revision}, or {} if the record is gone
-- Atomic because a record that expired must not come back as a fragment without an endpoint.

if call('HEXISTS', KEYS[1], 'endpoint') == 0 then return {} end
local worker, changed = ARGV[1], false
for i = 3, #ARGV, 2 do
  if ARGV[i] ~= 'lastHeartbeat' and call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    changed = true
  end
end
call('HSET', KEYS[1], unpack(ARGV, 3))
call('PEXPIRE', KEYS[1], ARGV[2])
enter(worker, tonumber(ARGV[2]), 0)
if changed then announce(worker) end
return {
  call('EXISTS', KEYS[2]), count(K.active, worker), count(K.lifetime, worker),
  call('GET', K.revision) or '0',
}
