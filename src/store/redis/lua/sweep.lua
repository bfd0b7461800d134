-- Mends counters and indexes that something other than these scripts disturbed.
--
-- KEYS  the records
-- ARGV  the workers, in the same order
-- Returns {how many were mended, then worker, session, ... of the seats that have no lease}
-- Atomic because the truth, the seats, is compared and written down in one go.

-- Where the proxies are lost, their next signs of life say who they are, and with that whose leases count.
local judged = judging() and call('EXISTS', K.proxies) == 1
local mended_workers, proxies, answer = 0, {}, { 0 }
for i, worker in ipairs(ARGV) do
  if call('ZSCORE', K.workers, worker) then
    local seats = call('HGETALL', K.seats .. worker)
    for n = 1, #seats, 2 do
      local session, proxy = seats[n], seats[n + 1]
      proxies[proxy] = true
      if judged and call('HGET', K.leases .. proxy, session) ~= worker then
        answer[#answer + 1] = worker
        answer[#answer + 1] = session
      end
    end
    local active, lifetime = whole(call('HGET', K.active, worker)), call('HGET', K.lifetime, worker)
    if judged and not whole(lifetime) then mended(K.lifetime, worker, lifetime) end
    -- What is no number is believed by nobody, whether anybody is judged or not.
    if not active or (judged and #seats / 2 ~= active) then
      call('HSET', K.active, worker, recount(worker))
      change(worker, 0, 0)
      mended_workers = mended_workers + 1
    end
  elseif judged and call('EXISTS', KEYS[i]) == 0 then
    -- It fell silent when nobody had it on the list.
    remove_worker(worker)
    mended_workers = mended_workers + 1
  end
end
-- Who holds a seat is a proxy, whether the set still knows it or not, and whether anybody is judged or not.
for proxy in pairs(proxies) do
  if proxy ~= GHOSTS then call('SADD', K.proxies, proxy) end
end
answer[1] = mended_workers
return answer
