-- Posts a body from a template. Arguments: the path, the file of the template, a seed. Each placeholder in the template
-- becomes something new in every request, of the same length: the device a random UUID, the number one that counts.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local DEVICE = "00000000-0000-4000-8000-000000000000"
local NUMBER = "0000000000"
local threads = 0

function setup(thread)
   threads = threads + 1
   thread:set("number", threads)
end

local function random_device()
   local random = math.random
   return string.format(
      "%04x%04x-%04x-4%03x-%04x-%04x%04x%04x",
      random(0, 65535), random(0, 65535), random(0, 65535), random(0, 4095), random(32768, 49151),
      random(0, 65535), random(0, 65535), random(0, 65535)
   )
end

local count = 0

local function next_number()
   count = count + 1
   return string.format("%010d", count)
end

-- Cuts the request at its placeholders: parts to send as they are, and between them the functions that fill in.
local function cut(text)
   local parts, fillers, from = {}, {}, 1
   while true do
      local device, number = text:find(DEVICE, from, true), text:find(NUMBER, from, true)
      local at = math.min(device or math.huge, number or math.huge)
      if at == math.huge then
         parts[#parts + 1] = text:sub(from)
         return parts, fillers
      end
      parts[#parts + 1] = text:sub(from, at - 1)
      fillers[#fillers + 1] = at == device and random_device or next_number
      from = at + (at == device and #DEVICE or #NUMBER)
   end
end

function init(args)
   local seed = tonumber(args[3])
   math.randomseed(seed * 1000 + number)
   count = (seed % 50 * 2 + number) * 50000000
   local body = read_lines(args[2])[1]
   parts, fillers = cut(wrk.format("POST", args[1], headers(), body))
end

function request()
   local text = {}
   for index, fill in ipairs(fillers) do
      text[2 * index - 1] = parts[index]
      text[2 * index] = fill()
   end
   text[#text + 1] = parts[#parts]
   return table.concat(text)
end
