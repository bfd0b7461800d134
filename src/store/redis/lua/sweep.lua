-- Mends counters that something other than these scripts disturbed.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns how many were mended
-- Atomic because the truth, the seats, is compared and written down in one go.

local mended = 0
for i, worker in ipairs(ARGV) do
  if call('ZSCORE', K.workers, worker) then
    local off = call('HLEN', K.seats .. worker) - count(K.active, worker)
    if off ~= 0 then
      change(worker, off, 0)
      mended = mended + 1
    end
  elseif call('EXISTS', KEYS[i]) == 0 then
    call('HDEL', K.active, worker)
    call('HDEL', K.lifetime, worker)
    mended = mended + 1
  end
end
return mended
