-- Writes down seats that a proxy's sessions hold but Redis does not know of: for what happened
-- while Redis was away, and for a Redis that came back empty.
--
-- KEYS  1: the proxy's identity, 2: its leases
-- ARGV  1: proxy, 2: epoch, then triples:
--       session, worker, lifetime: the seat, and how much the session adds to the lifetime (0 when
--         an earlier reservation counted it)
--       '+', worker, n: sessions that came and went unseen
-- Returns how many seats were new; FENCED
-- Atomic because lease and counters change together; a session that has its lease is left alone. Where a
--       session is, its proxy knows best.

local proxy = ARGV[1]
if fenced(proxy, ARGV[2]) then return FENCED end

local new = 0
for i = 3, #ARGV, 3 do
  local what, worker, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if what == '+' then
    if on_the_books(worker) then change(worker, 0, n) else lived_on(worker, n) end
  else
    local held = call('HGET', KEYS[2], what)
    -- It is taken up in any case.
    call('HDEL', K.unconfirmed .. worker:match('^[^:]*'), what)
    if held ~= worker then
      -- An old Redis may still have it in line, and may have given it another seat.
      leave_line(proxy, what)
      if held then give_back(proxy, { what }, { [what] = true }) end
      call('HSET', KEYS[2], what, worker)
      -- Its seat may have outlived the lease, or be one that somebody remembered.
      local more = call('HSET', K.seats .. worker, what, proxy)
      if more == 1 and n == 0 and end_ghost(worker) then more = 0 end
      if on_the_books(worker) then change(worker, more, n) else lived_on(worker, n) end
      new = new + 1
    end
  end
end
return new
