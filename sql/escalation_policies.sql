-- name: get_policy^
-- One policy.
SELECT id AS policy_id, * FROM escalation_policies WHERE id = :policy_id;

-- name: list_policies
-- A page of policies, newest first.
SELECT id AS policy_id, * FROM escalation_policies
WHERE (:enabled::boolean IS NULL OR enabled = :enabled)
    AND (:severity::text IS NULL OR rules -> 'severity_match' ? :severity)
    AND (:cursor_at::timestamptz IS NULL OR (created_at, id) < (:cursor_at::timestamptz, :cursor_id::bigint))
ORDER BY created_at DESC, id DESC
OFFSET :offset LIMIT :limit;

-- name: count_policies$
-- How many policies there are.
SELECT count(*) FROM escalation_policies
WHERE (:enabled::boolean IS NULL OR enabled = :enabled)
    AND (:severity::text IS NULL OR rules -> 'severity_match' ? :severity);

-- name: insert_policy^
-- Keeps a new policy.
INSERT INTO escalation_policies (name, description, enabled, priority, rules)
VALUES (:name, :description, :enabled, :priority, :rules::jsonb)
RETURNING id AS policy_id, *;

-- name: update_policy^
-- Replaces a policy; no row where there is none.
UPDATE escalation_policies
SET name = :name, description = :description, enabled = :enabled, priority = :priority, rules = :rules::jsonb,
    updated_at = app_now()
WHERE id = :policy_id
RETURNING id AS policy_id, *;

-- name: delete_policy^
-- Forgets a policy.
DELETE FROM escalation_policies WHERE id = :policy_id RETURNING id AS policy_id, *;

-- name: has_schedule$
-- Whether an on-call schedule exists.
SELECT EXISTS (SELECT FROM on_call_schedules WHERE id = :schedule_id);
