-- name: write_policy!
-- Writes a policy for critical alerts.
INSERT INTO escalation_policies (name, rules) VALUES (:name, :rules::jsonb)
ON CONFLICT (name) DO UPDATE SET rules = EXCLUDED.rules, enabled = true;

-- name: disable_policy!
-- Switches a policy off.
UPDATE escalation_policies SET enabled = false WHERE name = :name;

-- name: raise_alert^
-- Raises an alert of a new device.
SELECT alert_id FROM raise_alert(gen_random_uuid(), 'critical', 'Pump stopped');

-- name: insert_due_escalations!
-- Escalations whose first tier is due now.
INSERT INTO escalations (alert_id, group_id, policy_id, device_id, due_at, next_pass, next_tier, severity, metric,
                         key_class, policy_name, rules)
SELECT 0, 0, 0, gen_random_uuid(), app_now(), 1, 1, 'critical', '', 'critical', 'timers', :rules::jsonb
FROM generate_series(1, :count);

-- name: forget_escalations#
-- Empties what an earlier repetition left behind.
TRUNCATE escalations, escalation_steps, notifications;

-- name: withdraw_notifications!
-- Takes back what is still to be sent, so that it is not sent within another measurement.
UPDATE notifications SET status = 'cancelled', due_at = NULL WHERE due_at IS NOT NULL;

-- name: end_escalations!
-- Ends all escalations, so that their later tiers do not come due within another measurement.
UPDATE escalations SET status = 'cancelled', ended_at = now(), due_at = NULL WHERE ended_at IS NULL;
