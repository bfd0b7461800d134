-- Tells the proxies how workers are, for whoever found that it is not what was told.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns how many there were
-- Atomic because record and counts are told as they are together.

for i, worker in ipairs(ARGV) do
  if field(KEYS[i], 'endpoint') and alive(KEYS[i]) then
    announce(worker)
  elseif not call('ZSCORE', K.workers, worker) then
    announce_gone(worker)
  end
end
return #ARGV
