-- Orders a worker to recycle itself.
--
-- KEYS  1: the record, 2: the order
-- ARGV  1: TTL in ms
-- Returns 1, or 0 if there is no such worker
-- Atomic because an order for a worker that is gone would wait for nobody.

if call('EXISTS', KEYS[1]) == 0 then return 0 end
call('SET', KEYS[2], K.shutdown, 'PX', ARGV[1])
call('PUBLISH', KEYS[2], K.shutdown)
return 1
