-- Gives readings of many series to predict, each series in its order. Arguments: the path, the file of the series
-- (a device and the number of its next reading per line), readings per request, the time of reading 0, seconds a step,
-- a seed. A thread has its own series and takes them in turn, for a batch a fifth of them: so no two requests that are
-- under way at once have the same one.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local THREADS = 2
local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

local FIFTHS = 5
local devices, rows, turn = {}, {}, 0
local size, start, step, batched, share

function init(args)
   for index, line in ipairs(read_lines(args[2])) do
      if index % THREADS == number then
         local device, row = line:match("^(%S+) (%d+)$")
         devices[#devices + 1] = device
         rows[#rows + 1] = tonumber(row)
      end
   end
   size, start, step = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
   batched = args[1]:find("/batch$") ~= nil
   share = math.max(1, math.floor(#devices / FIFTHS))
   wrk.method, wrk.path, wrk.headers = "POST", args[1], headers()
   math.randomseed(tonumber(args[6]) * 1000 + number)
end

-- A daily wave with noise that is all but normal.
local function next_reading(index)
   local row = rows[index]
   rows[index] = row + 1
   local noise = math.random() + math.random() + math.random() + math.random() - 2
   local value = 60 + 5 * math.sin(row * step * 2 * math.pi / 86400) + noise
   return string.format(
      '{"device_id": "%s", "metric": "temperature", "value": %.3f, "timestamp": "%s"}',
      devices[index], value, os.date("!%Y-%m-%dT%H:%M:%SZ", start + row * step)
   )
end

function request()
   if not batched then
      turn = turn % #devices + 1
      return wrk.format(nil, nil, nil, next_reading(turn))
   end
   local readings = {}
   for place = 1, size do
      readings[place] = next_reading((turn + place % share) % #devices + 1)
   end
   turn = (turn + share) % #devices
   return wrk.format(nil, nil, nil, '{"readings": [' .. table.concat(readings, ", ") .. "]}")
end
