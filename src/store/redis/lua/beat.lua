-- A proxy's sign of life.
--
-- KEYS  1: the proxy's identity
-- ARGV  1: proxy, 2: epoch, 3: TTL of the identity in ms, 4: the highest revision it has seen
-- Returns {proxies alive, 1 if there is something to reap, this clock in us, revision}; FENCED
-- Atomic because an identity that expired, or that a newer connection owns, must not be extended.

if fenced(ARGV[1], ARGV[2]) then return FENCED end
call('PEXPIRE', KEYS[1], ARGV[3])
-- Seats that were lost too name no holder: those who live have time to say so themselves before anybody is judged.
if enlist(ARGV[1], true) then call('HDEL', K.pulse, 'heard') end
feel_pulse(tonumber(ARGV[3]))
if (tonumber(call('GET', K.revision)) or 0) < tonumber(ARGV[4]) then
  call('SET', K.revision, ARGV[4])
end

local alive, dead = count_proxies()
local overdue = call('ZCOUNT', K.workers, '-inf', now())
local due = dead + overdue > 0 or ghosts_due()
return { alive, due and 1 or 0, micros(), revision_now() }
