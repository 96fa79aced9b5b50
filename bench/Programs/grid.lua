-- The game of life on a torus, string building, and closures.
local size, steps = 256, 120
local seed = 42
local function random() seed = (seed * 1103515245 + 12345) % 2147483648; return seed / 2147483648 end
local grid = {}
for i = 1, size * size do grid[i] = random() < 0.3 and 1 or 0 end
for _ = 1, steps do
    local new = {}
    for y = 0, size - 1 do
        local up, down = ((y - 1) % size) * size, ((y + 1) % size) * size
        for x = 0, size - 1 do
            local l, r, row = (x - 1) % size, (x + 1) % size, y * size
            local n = grid[up + l + 1] + grid[up + x + 1] + grid[up + r + 1] + grid[row + l + 1] + grid[row + r + 1] + grid[down + l + 1] + grid[down + x + 1] + grid[down + r + 1]
            new[row + x + 1] = (n == 3 or (n == 2 and grid[row + x + 1] == 1)) and 1 or 0
        end
    end
    grid = new
end
local alive, parts = 0, {}
for i = 1, #grid do alive = alive + grid[i] end
for i = 1, 60000 do parts[#parts + 1] = string.format('%x', (i * 2654435761) % 4294967296):gsub('a', 'A') end
local text = table.concat(parts, ',')
local sum = 0
for word in text:gmatch('%x+') do sum = (sum * 31 + #word) % 1000000007 end
print(alive, #text, sum)
