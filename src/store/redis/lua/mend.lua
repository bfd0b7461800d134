-- Deletes what stands in the place of one of our keys and is of another type.
--
-- KEYS  the keys
-- ARGV  the type of each
-- Returns those that were deleted
-- Atomic because a key that was just put right must not be deleted.

local deleted = {}
for i, key in ipairs(KEYS) do
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= ARGV[i] then
    call('DEL', key)
    deleted[#deleted + 1] = key
  end
end
return deleted
