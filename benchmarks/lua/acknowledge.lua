-- Acknowledges the alerts of a file, one id per line, each once. Arguments: the file, connections per thread.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local THREADS = 2
local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

local sent, answered = 0, 0

function init(args)
   prepared = {}
   for index, id in ipairs(read_lines(args[1])) do
      if index % THREADS == number then
         prepared[#prepared + 1] = wrk.format("POST", "/api/v1/alerts/" .. id .. "/acknowledge", headers(), "{}")
      end
   end
   -- With this many answers in, the requests on the other connections are the last ones.
   last = #prepared - tonumber(args[2])
end

function request()
   sent = sent + 1
   return prepared[sent]
end

function response()
   answered = answered + 1
   if answered == last then
      wrk.thread:stop()
   end
end
