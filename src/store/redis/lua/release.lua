-- Gives back the seats of some of a proxy's sessions, or their places in line.
--
-- KEYS  1: the proxy's leases
-- ARGV  1: proxy, then for each session: session, refund (1 or 0)
-- Returns how many held a seat
-- Atomic because lease and counters change together, and because the lease decides: repeated, or
--       after another proxy took over, a release finds no lease and changes nothing. Not fenced,
--       for a session that ended has ended, whichever connection says so.

local sessions, refunds = {}, {}
for i = 2, #ARGV, 2 do
  sessions[#sessions + 1] = ARGV[i]
  if ARGV[i + 1] == '1' then
    refunds[ARGV[i]] = true
    -- A session that never reached its worker may still be waiting for one.
    leave_line(ARGV[1], ARGV[i])
  end
end
return give_back(ARGV[1], sessions, refunds)
