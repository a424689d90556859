-- name: get_schedule^
-- One schedule.
SELECT id AS schedule_id, * FROM on_call_schedules WHERE id = :schedule_id;

-- name: lock_schedule^
-- One schedule, locked until its overrides are rewritten.
SELECT id AS schedule_id, * FROM on_call_schedules WHERE id = :schedule_id FOR UPDATE;

-- name: get_first_enabled^
-- The schedule that answers when none is named.
SELECT id AS schedule_id, * FROM on_call_schedules WHERE enabled ORDER BY id LIMIT 1;

-- name: list_enabled
-- Every enabled schedule, oldest first.
SELECT id AS schedule_id, * FROM on_call_schedules WHERE enabled ORDER BY id;

-- name: list_schedules
-- A page of schedules, newest first.
SELECT id AS schedule_id, * FROM on_call_schedules
WHERE (:enabled::boolean IS NULL OR enabled = :enabled)
    AND (:rotation_type::text IS NULL OR rotation_type = :rotation_type)
    AND (:cursor_at::timestamptz IS NULL OR (created_at, id) < (:cursor_at::timestamptz, :cursor_id::bigint))
ORDER BY created_at DESC, id DESC
OFFSET :offset LIMIT :limit;

-- name: count_schedules$
-- How many schedules there are.
SELECT count(*) FROM on_call_schedules
WHERE (:enabled::boolean IS NULL OR enabled = :enabled)
    AND (:rotation_type::text IS NULL OR rotation_type = :rotation_type);

-- name: insert_schedule^
-- Keeps a new schedule.
INSERT INTO on_call_schedules (name, rotation_type, rotation_start, rotation_interval_days, timezone, enabled, users)
VALUES (:name, :rotation_type, :rotation_start::timestamp, :rotation_interval_days, :timezone, :enabled, :users::jsonb)
RETURNING id AS schedule_id, *;

-- name: update_schedule^
-- Replaces a schedule; no row where there is none.
UPDATE on_call_schedules
SET name = :name, rotation_type = :rotation_type, rotation_start = :rotation_start::timestamp,
    rotation_interval_days = :rotation_interval_days, timezone = :timezone, enabled = :enabled, users = :users::jsonb,
    updated_at = app_now()
WHERE id = :schedule_id
RETURNING id AS schedule_id, *;

-- name: update_users^
-- Rewrites users and overrides.
UPDATE on_call_schedules SET users = :users::jsonb, updated_at = app_now()
WHERE id = :schedule_id
RETURNING id AS schedule_id, *;

-- name: delete_schedule^
-- Forgets a schedule.
DELETE FROM on_call_schedules WHERE id = :schedule_id RETURNING id AS schedule_id, *;
