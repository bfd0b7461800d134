-- Serves the line of a browser, which is one for all proxies: takes in those who come, and gives
-- the candidates' free seats to those who are first in turn, at whichever proxy they wait.
--
-- KEYS  1: the proxy's identity, 2: its leases, 3: its waiting clients, then each candidate's record
-- ARGV  1: proxy, 2: epoch, 3: browser, 4: 1 if the proxy begins to tell anew who waits, 5: for how
--       long they count as waiting without another call, 6: for how long what others are given waits to be taken
--       up, both in ms, 7: how many clients follow; then for each: session, tenant, priority, what it wants (version, empty: any, and `:own` behind it
--       for a seat of its own), how long it had waited when the question set out, when it came by
--       this clock (empty: the proxy has not seen it), both in us and at the latest, how long it
--       goes on waiting in ms, its place (empty: none yet), the workers it was offered, each ended
--       by a newline; then for each candidate: worker, most active, most lifetime (-1: no limit)
-- Returns {'unknown', ..., time} if the proxy has to tell anew who waits, or {'line', places, grants,
--       counts, revision, elsewhere, time}: session, place of those who came; session, worker, active,
--       lifetime, revision of those of this proxy who got a seat; worker, active, lifetime (-1: it
--       is gone) of the candidates that were looked at; how many of other proxies
--       got one; this clock in us; FENCED
-- Atomic because places, turns, limits and leases have to agree: two proxies that serve one line at
--       once must not give one seat twice, nor out of turn.
-- Cost: some commands for each seat and each candidate that is looked at, and one for each tenant and
--       thing that is waited for, however many wait and however many workers there are.
--
-- A client waits in a sorted set for what it wants and its tenant, by its place: when it came, in us of
-- this clock. Whether that still holds is said by its proxy's hash of waiting clients, which a
-- proxy that falls silent lets expire: 'until when, name of the set, newline, workers offered'.
-- A seat for a client of another proxy is leased to that proxy, which is told that there is one, and takes it up
-- by telling of the client again. When the message is lost with its connection, the proxy tells anew who waits, which is
-- the same. A proxy that is not connected is given nothing; a seat that is not taken up in time, because
-- the proxy hangs, is given back.
-- The turns are those of admission/turns.rs, but for the turn that a tenant gets back.

local proxy, epoch, browser, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
if fenced(proxy, epoch) then return FENCED end

local clock = micros()
local time = math.floor(clock / 1000)

local waiting, lanes_key, turns_key = KEYS[3], K.lanes .. browser, K.line .. browser
local unconfirmed = K.unconfirmed .. browser
local told, last_place = '@' .. browser, '#' .. browser
local told_in, last = unpack(call('HMGET', waiting, told, last_place))
if ARGV[4] == '1' then
  call('HSET', waiting, told, epoch)
elseif told_in ~= epoch then
  return { 'unknown', {}, {}, {}, 0, 0, clock }
end
call('PEXPIRE', waiting, ttl)

-- The turns: of each tenant when its next one is due, which seat was its last, and its priority.
local tenants, changed = {}, {}
local served, seats = 0, 0
local flat = call('HGETALL', turns_key)
for i = 1, #flat, 2 do
  if flat[i] == 'served' then
    local a, b = flat[i + 1]:match('^(%d+) (%d+)$')
    served, seats = tonumber(a) or 0, tonumber(b) or 0
  else
    local due, last, priority = flat[i + 1]:match('^(%d+) (%d+) (%d+)$')
    tenants[flat[i]:sub(2)] = { due = tonumber(due) or 0, last = tonumber(last) or 0, priority = tonumber(priority) or 1 }
  end
end

local function of(tenant)
  if not tenants[tenant] then tenants[tenant] = { due = 0, last = 0, priority = 1 } end
  return tenants[tenant]
end

-- The lanes of the line: those of one tenant who want the same.
local lanes, named, own, known = {}, {}, {}, {}
local function lane_of(name)
  if not named[name] then
    local wanted, tenant = name:match('^([^/]*)/(.*)$')
    local version, seat = wanted:match('^([^:]*):?(.*)$')
    local key = K.lane .. browser .. '/' .. name
    named[name] = { name = name, key = key, version = version, seat = seat, tenant = tenant, line = {}, at = 1 }
    lanes[#lanes + 1] = named[name]
  end
  return named[name]
end

-- Those who come; some may have had their place before.
local places, grants, counts, elsewhere, retold = {}, {}, {}, 0, false
local function granted(session, worker, a, l, revision)
  local n = #grants
  grants[n + 1], grants[n + 2], grants[n + 3], grants[n + 4], grants[n + 5] = session, worker, a, l, revision
end

last = tonumber(last) or 0
local clients = tonumber(ARGV[7])
local i, held_by = 8, {}
if clients > 0 then
  local sessions = {}
  for j = 0, clients - 1 do sessions[j + 1] = ARGV[i + 9 * j] end
  held_by = call('HMGET', KEYS[2], unpack(sessions))
end
for j = 1, clients do
  local session, tenant, priority, wanted, waited, came, left, place, offered = unpack(ARGV, i, i + 8)
  i = i + 9
  local held = held_by[j]
  -- One that Redis has from before it came back old may have been given to somebody else in what it has lost.
  local lost = held and call('HEXISTS', K.restored, from_before(session)) == 1
  if held and not lost and on_the_books(held) then
    -- It got a seat by another proxy's call, and takes it up.
    call('HDEL', unconfirmed, session)
    granted(session, held, count(K.active, held), count(K.lifetime, held), revision_now())
  else
    if held then
      give_back(proxy, { session }, {})
      -- The next seat that it is given is another one.
      call('HDEL', unconfirmed, session)
      call('HDEL', K.restored, from_before(session))
    end
    local placed = place ~= ''
    if not placed then
      -- A question that was long on its way makes nobody come later.
      place = math.min(clock - tonumber(waited), tonumber(came) or clock)
      place = math.max(place, last + 1)
      last = place
      places[#places + 1] = session
      places[#places + 1] = string.format('%.0f', place)
    end
    local lane = lane_of(wanted .. '/' .. tenant)
    local entry = { session = session, proxy = proxy, place = tonumber(place), lane = lane, left = tonumber(left), offered = offered ~= '' and '\n' .. offered, valid = true }
    -- Who is told of anew may stand there from before.
    if placed then entry.member, retold = session .. ' ' .. proxy, true end
    own[#own + 1], known[session] = entry, true
    lane.line[#lane.line + 1] = entry
    if of(tenant).priority ~= tonumber(priority) then
      of(tenant).priority = math.max(tonumber(priority), 1)
      changed[tenant] = true
    end
  end
end
if #places > 0 then call('HSET', waiting, last_place, string.format('%.0f', last)) end

-- Gives back what proxies have not taken up in time: of one that hangs all of it, and its clients do not count as
-- waiting until it tells anew. What was given in an earlier grid its proxy may have taken up since.
local function take_back()
  local pending, silent, overdue, left = call('HGETALL', unconfirmed), {}, {}, {}
  local grid = #pending > 0 and call('GET', K.grid) or ''
  for j = 1, #pending, 2 do
    local session = pending[j]
    local by, given_in, at = pending[j + 1]:match('^(%d+) (%S*) (%S+)$')
    if not by or given_in ~= grid then
      call('HDEL', unconfirmed, session)
    elseif tonumber(by) > time then
      left[#left + 1] = { session, at }
    elseif not call('HGET', K.leases .. at, session) then
      -- Its client has left.
      call('HDEL', unconfirmed, session)
    elseif at ~= proxy then
      overdue[#overdue + 1] = { session, at }
      silent[at] = true
    end
  end
  if #overdue == 0 then return end
  for _, given in ipairs(left) do overdue[#overdue + 1] = given end
  for j = 1, math.min(#overdue, MAX_GRANTS) do
    local session, at = unpack(overdue[j])
    if silent[at] then
      call('HDEL', unconfirmed, session)
      call('DEL', K.waiting .. at)
      give_back(at, { session }, { [session] = true })
    end
  end
end
take_back()

local function is_before(a, b)
  if a.place ~= b.place then return a.place < b.place end
  return a.session < b.session
end

-- Those who wait, as many of each lane as could be served.
local remaining = #own
if i <= #ARGV then
  for _, name in ipairs(call('SMEMBERS', lanes_key)) do
    local lane = lane_of(name)
    local found = call('ZRANGE', lane.key, 0, MAX_GRANTS - 1, 'WITHSCORES')
    if #found == 0 then call('SREM', lanes_key, name) end
    for j = 1, #found, 2 do
      local session, at = found[j]:match('^(%S+) (%S+)$')
      if not known[session] then
        lane.line[#lane.line + 1] = { session = session, proxy = at, place = tonumber(found[j + 1]), lane = lane, member = found[j] }
        remaining = remaining + 1
      end
    end
  end
  -- Who has just come stands behind each other already.
  if remaining > #own or retold then
    for _, lane in ipairs(lanes) do table.sort(lane.line, is_before) end
  end
end

-- This one is not fenced off.
local alive_proxies = { [proxy] = true }
local function is_alive(other)
  if alive_proxies[other] == nil then alive_proxies[other] = call('EXISTS', K.proxy .. other) == 1 end
  return alive_proxies[other]
end

-- Whether somebody found in a lane really waits there; who does not is removed.
local function waits(entry)
  if entry.valid == nil then
    local value = call('HGET', K.waiting .. entry.proxy, entry.session) or ''
    local deadline, _, offered = value:match('^(%d+) ([^\n]*)\n(.*)$')
    entry.valid = deadline ~= nil and tonumber(deadline) > time
    entry.offered = offered and offered ~= '' and '\n' .. offered
    if not entry.valid then
      call('ZREM', entry.lane.key, entry.member)
      if value ~= '' then call('HDEL', K.waiting .. entry.proxy, entry.session) end
    end
  end
  if entry.valid and not is_alive(entry.proxy) then
    entry.valid = false
    call('ZREM', entry.lane.key, entry.member)
  end
  return entry.valid
end

-- Tells a proxy that a client of it is given a seat. One that is not connected has no clients; when it is back, it
-- tells anew who waits.
local function tell(entry)
  if entry.proxy == proxy or call('PUBLISH', K.grants .. ':' .. entry.proxy, entry.session) > 0 then return true end
  call('DEL', K.waiting .. entry.proxy)
  alive_proxies[entry.proxy] = false
  return false
end

local function first_of(lane, worker)
  local line = lane.line
  while line[lane.at] and (line[lane.at].done or not waits(line[lane.at])) do
    lane.at = lane.at + 1
  end
  for j = lane.at, #line do
    local entry = line[j]
    if not entry.done and waits(entry) then
      if not entry.offered or not entry.offered:find('\n' .. worker .. '\n', 1, true) then return entry end
    end
  end
end

-- Who is first in turn of those whom this seat fits.
local function next_for(worker, version, seat)
  local best, best_due, best_last
  for _, lane in ipairs(lanes) do
    if lane.seat == seat and (lane.version == '' or version == '' or lane.version == version) then
      local entry = first_of(lane, worker)
      if entry then
        local tenant = of(lane.tenant)
        local due = math.max(tenant.due, served)
        if not best or due < best_due or (due == best_due and
            (tenant.last < best_last or (tenant.last == best_last and entry.place < best.place))) then
          best, best_due, best_last = entry, due, tenant.last
        end
      end
    end
  end
  return best
end

-- Gives a client the next seat of a worker, which then has so many active sessions and so long a lifetime.
local function give(entry, worker, a, l)
  entry.done = true
  if entry.member then
    call('ZREM', entry.lane.key, entry.member)
    call('HDEL', K.waiting .. entry.proxy, entry.session)
  end
  local tenant = of(entry.lane.tenant)
  seats = seats + 1
  served = math.max(tenant.due, served)
  tenant.due, tenant.last = served + math.floor(STRIDE / tenant.priority), seats
  changed[entry.lane.tenant] = true
  if entry.proxy == proxy then
    granted(entry.session, worker, a, l, rise())
  else
    elsewhere = elsewhere + 1
    local given = { string.format('%.0f', time + tonumber(ARGV[6])), call('GET', K.grid) or '', entry.proxy }
    call('HSET', unconfirmed, entry.session, table.concat(given, ' '))
  end
end

-- Writes down who was given a seat of a worker.
local function take_seats(worker, taken)
  if #taken == 0 then return end
  local holders, leases = {}, {}
  for _, entry in ipairs(taken) do
    local of_proxy = leases[entry.proxy] or {}
    leases[entry.proxy] = of_proxy
    of_proxy[#of_proxy + 1] = entry.session
    of_proxy[#of_proxy + 1] = worker
    holders[#holders + 1] = entry.session
    holders[#holders + 1] = entry.proxy
  end
  call('HSET', K.seats .. worker, unpack(holders))
  for at, of_proxy in pairs(leases) do call('HSET', K.leases .. at, unpack(of_proxy)) end
  change(worker, #taken, #taken)
end

-- A worker's version as lanes name it, without what stands behind major and minor; empty where it
-- told none that can be read.
local function version_of(text)
  return ((text or '') .. '.'):match('^(%d+%.%d+)[.-]') or ''
end

local given, record = 0, 4
if remaining > 0 and i <= #ARGV and being_counted() then remaining = 0 end
while i <= #ARGV and remaining > 0 and given < MAX_GRANTS do
  local worker, most_active, most_lifetime = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local found = redis.pcall('HMGET', KEYS[record], 'status', 'playwrightVersion', 'seat')
  local a, l = -1, -1
  if found[1] == 'available' and alive(KEYS[record]) then
    a = mended(K.active, worker, call('HGET', K.active, worker))
    l = mended(K.lifetime, worker, call('HGET', K.lifetime, worker))
    local taken = {}
    while given < MAX_GRANTS and a < most_active and (most_lifetime < 0 or l < most_lifetime) do
      local entry = next_for(worker, version_of(found[2]), found[3] or '')
      if not entry then break end
      if tell(entry) then
        a, l = a + 1, l + 1
        give(entry, worker, a, l)
        taken[#taken + 1] = entry
        given, remaining = given + 1, remaining - 1
      end
    end
    take_seats(worker, taken)
  end
  local n = #counts
  counts[n + 1], counts[n + 2], counts[n + 3] = worker, a, l
  i, record = i + 3, record + 1
end

-- Those who came and wait on.
local function keep(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end
for _, entry in ipairs(own) do
  if not entry.done then
    local lane = entry.lane
    local value = string.format('%.0f %s/%s', time + entry.left, browser, lane.name) .. (entry.offered or '\n')
    call('HSET', waiting, entry.session, value)
    call('ZADD', lane.key, string.format('%.0f', entry.place), entry.session .. ' ' .. proxy)
    call('SADD', lanes_key, lane.name)
    keep(lane.key, entry.left + 1000)
    keep(lanes_key, entry.left + 1000)
  end
end

local turns = {}
for tenant in pairs(changed) do
  local turn = tenants[tenant]
  turns[#turns + 1] = ':' .. tenant
  turns[#turns + 1] = string.format('%.0f %.0f %.0f', turn.due, turn.last, turn.priority)
end
if given > 0 then
  turns[#turns + 1] = 'served'
  turns[#turns + 1] = string.format('%.0f %.0f', served, seats)
end
if #turns > 0 then
  call('HSET', turns_key, unpack(turns))
  call('PEXPIRE', turns_key, TURNS_TTL)
end
if elsewhere > 0 then call('PEXPIRE', unconfirmed, TURNS_TTL) end

return { 'line', places, grants, counts, revision_now(), elsewhere, clock }
