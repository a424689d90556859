-- Reads the addresses of a file, one per line, in random order. Arguments: the file, a seed.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local threads = 0

function setup(thread)
   threads = threads + 1
   thread:set("number", threads)
end

function init(args)
   math.randomseed(tonumber(args[2]) * 1000 + number)
   prepared = {}
   for _, path in ipairs(read_lines(args[1])) do
      prepared[#prepared + 1] = wrk.format("GET", path, headers())
   end
end

function request()
   return prepared[math.random(#prepared)]
end
