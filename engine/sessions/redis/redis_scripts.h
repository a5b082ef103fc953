// The scripts that change sessions in a Redis server; each runs whole, and alone.
//
// Any of them may run twice where an answer was lost, and then answers the same again. Where the
// server's memory is full a script may still write once it has: what must run then begins with a
// command that takes none, which an expiry and DEL are.
//
// KEYS[1] is what the keys of the tenant's sessions begin with. Of a session: KEYS[1] .. 's:' ..
// id, a hash of
//   r   its record             i  the same without its turn, for lists
//   f   the number of its last claim; u  until when it holds, ms; h  who holds it
//   n   of which Create it is; c, of which change it is
//   s…  states, by their names
// and of a tenant: 'ids', a sorted set of ids; 'exp', the same by expiry; 'bytes', a hash by id,
// and 'total', their sum. 't2r:fence' counts claims, 't2r:owners' holds the beginnings of all
// tenants.
#pragma once

namespace t2r::redis_scripts {

// Before each script.
inline constexpr char kCommon[] = R"(
local p = KEYS[1]
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function ms(n) return string.format('%.0f', n) end
local function key(id) return p .. 's:' .. id end
local function count(id, bytes)
  local old = redis.call('HGET', p .. 'bytes', id) or 0
  redis.call('INCRBY', p .. 'total', ms(bytes - old))
  if bytes == 0 then redis.call('HDEL', p .. 'bytes', id)
  else redis.call('HSET', p .. 'bytes', id, ms(bytes)) end
end
local function forget(id)
  redis.call('ZREM', p .. 'ids', id)
  redis.call('ZREM', p .. 'exp', id)
  count(id, 0)
end
local function sweep()
  local t = now()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', p .. 'exp', '-inf', ms(t), 'LIMIT', 0, 1000)) do
    local left = redis.call('PTTL', key(id))
    if left < 0 then forget(id) else redis.call('ZADD', p .. 'exp', ms(t + left), id) end
  end
end
local function outlast(id, lease)
  if redis.call('PTTL', key(id)) < tonumber(lease) then redis.call('PEXPIRE', key(id), lease) end
end
)";

// nonce, state's name, state, then of each session: id, record, info, expiry in ms, bytes. Answers
// the id of one that is there already, made by another call than this, or nil.
inline constexpr char kCreate[] = R"(
sweep()
for i = 4, #ARGV, 5 do
  local n = redis.call('HGET', key(ARGV[i]), 'n')
  if n and n ~= ARGV[1] then return ARGV[i] end
end
redis.call('SADD', 't2r:owners', p)
for i = 4, #ARGV, 5 do
  local id, k = ARGV[i], key(ARGV[i])
  redis.call('HSET', k, 'n', ARGV[1], 'f', '0', 'u', '0', 'r', ARGV[i + 1], 'i', ARGV[i + 2])
  if ARGV[2] ~= '0' then redis.call('HSET', k, 's' .. ARGV[2], ARGV[3]) end
  redis.call('PEXPIREAT', k, ARGV[i + 3])
  redis.call('ZADD', p .. 'ids', 0, id)
  redis.call('ZADD', p .. 'exp', ARGV[i + 3], id)
  count(id, tonumber(ARGV[i + 4]))
end
return false
)";

// after, count. Answers ids and infos by turns.
inline constexpr char kList[] = R"(
sweep()
local from, want, found = '-', tonumber(ARGV[2]), {}
if ARGV[1] ~= '' then from = '(' .. ARGV[1] end
while #found < 2 * want do
  local ids = redis.call('ZRANGEBYLEX', p .. 'ids', from, '+', 'LIMIT', 0, want - #found / 2)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local info = redis.call('HGET', key(id), 'i')
    if info then
      found[#found + 1] = id
      found[#found + 1] = info
    else forget(id) end
    from = '(' .. id
  end
end
return found
)";

// id, holder, lease in ms, '1' to take over. Answers nil, 'busy', or the claim's number and the
// record.
inline constexpr char kClaim[] = R"(
local k = key(ARGV[1])
local r = redis.call('HGET', k, 'r')
if not r then return false end
local t = now()
if tonumber(redis.call('HGET', k, 'u')) > t and redis.call('HGET', k, 'h') ~= ARGV[2]
  and ARGV[4] ~= '1' then return 'busy' end
local f = ms(redis.call('INCR', 't2r:fence'))
redis.call('HSET', k, 'f', f, 'u', ms(t + tonumber(ARGV[3])), 'h', ARGV[2])
outlast(ARGV[1], ARGV[3])
return {f, r}
)";

// Lease in ms, then of each claim: id, number. A claim that has been released is none any more.
inline constexpr char kRenew[] = R"(
for i = 2, #ARGV, 2 do
  local k = key(ARGV[i])
  local held = redis.call('HMGET', k, 'f', 'u')
  if held[1] == ARGV[i + 1] and held[2] ~= '0' then
    redis.call('PEXPIRE', k, math.max(redis.call('PTTL', k), tonumber(ARGV[1])))
    redis.call('HSET', k, 'u', ms(now() + tonumber(ARGV[1])))
  end
end
return 1
)";

// id, number, the change's own number, lease in ms, '1' to release, record, info, expiry in ms,
// bytes, state's name, state, names of the states that stay.
inline constexpr char kChange[] = R"(
local id, k = ARGV[1], key(ARGV[1])
local held = redis.call('HMGET', k, 'f', 'c')
if held[2] == ARGV[3] then return 1 end
if held[1] ~= ARGV[2] then return 0 end
local e = tonumber(ARGV[8])
if ARGV[5] ~= '1' then e = math.max(e, now() + tonumber(ARGV[4])) end
redis.call('PEXPIREAT', k, ms(e))
redis.call('HSET', k, 'c', ARGV[3], 'r', ARGV[6], 'i', ARGV[7])
if ARGV[5] == '1' then redis.call('HSET', k, 'u', '0') end
local stays = {}
for i = 12, #ARGV do stays['s' .. ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', k)) do
  if #field > 1 and field:sub(1, 1) == 's' and not stays[field] then redis.call('HDEL', k, field) end
end
if ARGV[10] ~= '0' then redis.call('HSET', k, 's' .. ARGV[10], ARGV[11]) end
redis.call('ZADD', p .. 'ids', 0, id)
redis.call('ZADD', p .. 'exp', ms(e), id)
count(id, tonumber(ARGV[9]))
return 1
)";

// id, number.
inline constexpr char kRelease[] = R"(
local k = key(ARGV[1])
if redis.call('HGET', k, 'f') ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', k, math.max(redis.call('PTTL', k), 1))
redis.call('HSET', k, 'u', '0')
return 1
)";

// id, holder. Answers 'busy', or 1.
inline constexpr char kDelete[] = R"(
local k = key(ARGV[1])
local held = redis.call('HMGET', k, 'u', 'h')
if (tonumber(held[1] or '0') or 0) > now() and held[2] ~= ARGV[2] then return 'busy' end
redis.call('DEL', k)
forget(ARGV[1])
return 1
)";

// Answers sessions and bytes of the tenant.
inline constexpr char kUsage[] = R"(
sweep()
return {redis.call('ZCARD', p .. 'ids'), tonumber(redis.call('GET', p .. 'total') or 0)}
)";

// Answers sessions and bytes of all tenants.
inline constexpr char kTotal[] = R"(
local sessions, bytes = 0, 0
for _, owner in ipairs(redis.call('SMEMBERS', 't2r:owners')) do
  p = owner
  sweep()
  local n = redis.call('ZCARD', p .. 'ids')
  if n == 0 then redis.call('SREM', 't2r:owners', p) end
  sessions = sessions + n
  bytes = bytes + tonumber(redis.call('GET', p .. 'total') or 0)
end
return {sessions, bytes}
)";

}  // namespace t2r::redis_scripts
