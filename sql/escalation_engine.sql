-- name: find_policy^
-- The policy for a severity.
SELECT id, name, rules FROM find_escalation_policy(:severity::alert_severity);

-- name: lock_group$
-- Locks the group of an alert, which comes before alert and escalation in the lock order.
SELECT id FROM alert_groups WHERE id = (SELECT group_id FROM alerts WHERE id = :alert_id) FOR NO KEY UPDATE;

-- name: get_alert^
-- An alert, and the tier at which a person ended the last escalation of its group.
SELECT a.id AS alert_id, a.state, a.severity,
       CASE WHEN e.status = 'cancelled' THEN e.current_tier END AS cancelled_at_tier
FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id
LEFT JOIN escalations AS e ON e.id = g.escalation_id
WHERE a.id = :alert_id;

-- name: lock_running^
-- The running escalation of an alert's key, locked.
SELECT e.id AS escalation_id, e.next_tier
FROM escalations AS e JOIN alerts AS a USING (device_id, metric, key_class)
WHERE a.id = :alert_id AND e.ended_at IS NULL
FOR NO KEY UPDATE OF e;

-- name: start_escalation$
-- Starts the escalation of an alert by a policy; NULL where there is no such policy.
SELECT start_escalation(a, p, :first_tier)
FROM alerts AS a, escalation_policies AS p
WHERE a.id = :alert_id AND p.id = :policy_id;

-- name: bring_forward!
-- Makes the next step of an escalation due now.
UPDATE escalations SET due_at = app_now() WHERE id = :escalation_id;

-- name: is_step_due$
-- Whether an escalation is due.
SELECT EXISTS (SELECT FROM escalations WHERE ended_at IS NULL AND due_at <= app_now());

-- name: lock_due
-- The escalations that are due, locked until the end of the transaction; other workers pass over them.
SELECT id AS escalation_id, alert_id, started_at, next_pass, next_tier, rules, app_now() AS now
FROM escalations
WHERE ended_at IS NULL AND due_at <= app_now()
ORDER BY due_at
LIMIT :limit
FOR NO KEY UPDATE SKIP LOCKED;

-- name: await_last_pages!
-- Puts off the end of escalations a page of which is still to be sent: it is taken back with the escalation, and only
-- with one that runs.
UPDATE escalations AS e SET due_at = app_now() + interval '5 seconds'
WHERE e.id = ANY (:escalation_ids::bigint[])
    AND EXISTS (SELECT FROM notifications AS n WHERE n.escalation_id = e.id AND n.status IN ('pending', 'sending'));

-- name: end_unheard!
-- Ends escalations whose last tier nobody answered.
UPDATE escalations SET status = 'completed', ended_at = app_now(), due_at = NULL
WHERE id = ANY (:escalation_ids::bigint[]) AND due_at <= app_now();

-- name: withdraw_overtaken!
-- Takes back what was left unsent by an outage: a later tier goes out instead. In good times a notification has ended
-- within two minutes.
UPDATE notifications SET status = 'cancelled', due_at = NULL, error = 'overtaken by a later tier'
WHERE escalation_id = ANY (:escalation_ids::bigint[])
    AND (status = 'pending' OR (status = 'sending' AND due_at <= app_now()))
    AND created_at < app_now() - interval '2 minutes';

-- name: advance_escalations!
-- Records steps and when each escalation is due again.
WITH steps AS (
    SELECT * FROM jsonb_to_recordset(:steps::jsonb) AS s (
        escalation_id bigint, pass integer, tier integer, next_pass integer, next_tier integer, due_at timestamptz,
        unreachable jsonb)
), recorded AS (
    INSERT INTO escalation_steps (escalation_id, pass, tier, unreachable)
    SELECT escalation_id, pass, tier, unreachable FROM steps
)
UPDATE escalations AS e
SET status = 'in_progress', pass = s.pass, current_tier = s.tier, next_pass = s.next_pass, next_tier = s.next_tier,
    due_at = s.due_at
FROM steps AS s WHERE e.id = s.escalation_id;

-- name: insert_notifications!
-- Puts the pages of steps into the outbox.
INSERT INTO notifications (escalation_id, alert_id, pass, tier, channel, address, recipient, user_id)
SELECT escalation_id, alert_id, pass, tier, channel, address, recipient, user_id
FROM jsonb_to_recordset(:pages::jsonb) AS p (
    escalation_id bigint, alert_id bigint, pass integer, tier integer, channel text, address text, recipient text,
    user_id bigint)
ON CONFLICT ON CONSTRAINT notifications_one_per_address DO NOTHING;
