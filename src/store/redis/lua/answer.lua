-- Answers another proxy's question.
--
-- KEYS  1: the answers of the inquiry
-- ARGV  1: the inquiry, 2: the proxy that answers, 3: its answer, 4: TTL of the answers in ms
-- Returns 1
-- Atomic because answers must not stay for good, and must be there when they are announced.

call('HSET', KEYS[1], ARGV[2], ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[4])
call('PUBLISH', K.events, '! ' .. ARGV[1])
return 1
