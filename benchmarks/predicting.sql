-- name: list_positions
-- How many readings each series of a metric was given.
SELECT device_id::text AS device_id, last_number FROM ml_series WHERE metric = :metric ORDER BY id;
