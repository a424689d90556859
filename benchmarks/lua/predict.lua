-- Gives readings of many series to predict, each series in its order. Arguments: the path, the file of the series
-- (a device and the number of its next reading per line), their metric, threads, readings per request, the time of
-- reading 0, seconds a step, a seed. A thread has its own series and takes them in turn. Single readings: with so many
-- series no two requests that are under way at once have the same one. Batches: a thread has one connection.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

local devices, rows, turn = {}, {}, 0
local metric, size, start, step, batched

function init(args)
   for index, line in ipairs(read_lines(args[2])) do
      if index % tonumber(args[4]) == number then
         local device, row = line:match("^(%S+) (%d+)$")
         devices[#devices + 1] = device
         rows[#rows + 1] = tonumber(row)
      end
   end
   metric, size, start, step = args[3], tonumber(args[5]), tonumber(args[6]), tonumber(args[7])
   batched = args[1]:find("/batch$") ~= nil
   wrk.method, wrk.path, wrk.headers = "POST", args[1], headers()
   math.randomseed(tonumber(args[8]) * 1000 + number)
end

-- A daily wave with noise that is all but normal.
local function next_reading()
   turn = turn % #devices + 1
   local row = rows[turn]
   rows[turn] = row + 1
   local noise = math.random() + math.random() + math.random() + math.random() - 2
   local value = 60 + 5 * math.sin(row * step * 2 * math.pi / 86400) + noise
   return string.format(
      '{"device_id": "%s", "metric": "%s", "value": %.3f, "timestamp": "%s"}',
      devices[turn], metric, value, os.date("!%Y-%m-%dT%H:%M:%SZ", start + row * step)
   )
end

function request()
   if not batched then
      return wrk.format(nil, nil, nil, next_reading())
   end
   local readings = {}
   for place = 1, size do
      readings[place] = next_reading()
   end
   return wrk.format(nil, nil, nil, '{"readings": [' .. table.concat(readings, ", ") .. "]}")
end
