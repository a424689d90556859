-- name: list_positions
-- How many readings each series was given.
SELECT device_id::text AS device_id, last_number FROM ml_series WHERE metric = 'temperature' ORDER BY id;
