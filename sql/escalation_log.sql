-- name: list_escalations
-- A page over all devices. Each status is read in order from its own stretch of escalations_status_newest, and the
-- few rows that could make the page are merged.
SELECT v.*
FROM (
    SELECT e.id, e.started_at
    FROM unnest(:statuses::escalation_status[]) AS wanted (status)
    CROSS JOIN LATERAL (
        SELECT e.id, e.started_at
        FROM escalations AS e
        WHERE e.status = wanted.status
            AND (:severity::alert_severity IS NULL OR e.severity = :severity::alert_severity)
            AND (:cursor_at::timestamptz IS NULL
                 OR (e.started_at, e.id) < (:cursor_at::timestamptz, :cursor_id::bigint))
        ORDER BY e.started_at DESC, e.id DESC
        LIMIT :depth
    ) AS e
    ORDER BY e.started_at DESC, e.id DESC
    OFFSET :offset LIMIT :limit
) AS page
JOIN v_escalations AS v ON v.escalation_id = page.id
ORDER BY page.started_at DESC, page.id DESC;

-- name: list_device_escalations
-- A page of one device's escalations, in order from escalations_device_newest.
SELECT v.*
FROM (
    SELECT e.id, e.started_at
    FROM escalations AS e
    WHERE e.device_id = :device_id::uuid AND e.status = ANY (:statuses::escalation_status[])
        AND (:severity::alert_severity IS NULL OR e.severity = :severity::alert_severity)
        AND (:cursor_at::timestamptz IS NULL
             OR (e.started_at, e.id) < (:cursor_at::timestamptz, :cursor_id::bigint))
    ORDER BY e.started_at DESC, e.id DESC
    OFFSET :offset LIMIT :limit
) AS page
JOIN v_escalations AS v ON v.escalation_id = page.id
ORDER BY page.started_at DESC, page.id DESC;

-- name: count_escalations$
-- The total up to where it is still counted, plus one.
SELECT count(*) FROM (
    SELECT 1 FROM escalations AS e
    WHERE e.status = ANY (:statuses::escalation_status[])
        AND (:severity::alert_severity IS NULL OR e.severity = :severity::alert_severity)
        AND (:device_id::uuid IS NULL OR e.device_id = :device_id::uuid)
    LIMIT 10001
) AS counted;

-- name: estimate_escalations$
-- What the planner believes the total to be.
EXPLAIN (FORMAT JSON) SELECT 1 FROM escalations AS e
WHERE e.status = ANY (:statuses::escalation_status[])
    AND (:severity::alert_severity IS NULL OR e.severity = :severity::alert_severity)
    AND (:device_id::uuid IS NULL OR e.device_id = :device_id::uuid);

-- name: get_escalation^
-- One escalation as clients see it.
SELECT * FROM v_escalations WHERE escalation_id = :escalation_id;

-- name: list_steps
-- The steps that an escalation has taken, oldest first.
SELECT pass, tier, taken_at, unreachable FROM escalation_steps
WHERE escalation_id = :escalation_id
ORDER BY pass, tier;

-- name: count_in_flight$
-- How many notifications of a group's key are on their way. They may belong to an escalation that has ended.
SELECT count(*)
FROM notifications AS n
JOIN escalations AS e ON e.id = n.escalation_id
JOIN alert_groups AS g ON g.device_id = e.device_id AND g.metric = e.metric AND g.key_class = e.key_class
WHERE n.status = 'sending' AND g.id = :group_id;

-- name: has_alert$
-- Whether there is such an alert.
SELECT EXISTS (SELECT FROM alerts WHERE id = :alert_id);

-- name: list_notifications
-- A page of the notifications that concern an alert, oldest first.
SELECT n.id AS notification_id, n.escalation_id, n.pass, n.tier, n.channel, n.address, n.recipient, n.user_id, n.status,
       n.attempts, n.provider_id, n.provider_status, n.segments, n.price, n.price_unit, n.error, n.created_at, n.sent_at,
       n.delivered_at
FROM v_alert_escalations AS v JOIN notifications AS n USING (escalation_id)
WHERE v.alert_id = :alert_id
    AND (:cursor_at::timestamptz IS NULL OR (n.created_at, n.id) > (:cursor_at::timestamptz, :cursor_id::bigint))
ORDER BY n.created_at, n.id
OFFSET :offset LIMIT :limit;

-- name: count_notifications$
-- How many notifications concern an alert.
SELECT count(*) FROM v_alert_escalations AS v JOIN notifications AS n USING (escalation_id)
WHERE v.alert_id = :alert_id;

-- name: list_history
-- What escalations did for an alert: starts, steps, notifications and ends, oldest first.
WITH concerned AS (
    SELECT e.* FROM v_alert_escalations AS v JOIN escalations AS e ON e.id = v.escalation_id
    WHERE v.alert_id = :alert_id
), entries AS (
    SELECT 1 AS rank, 'escalation' AS kind, e.started_at AS created_at, 'system' AS by, e.id AS escalation_id,
           e.policy_name, NULL::integer AS pass, NULL::integer AS tier, 'pending' AS status,
           NULL::bigint AS notification_id, NULL AS channel, NULL AS recipient, NULL AS error, NULL::jsonb AS unreachable
    FROM concerned AS e
    UNION ALL
    SELECT 2, 'escalation_step', s.taken_at, 'system', e.id, NULL, s.pass, s.tier, NULL, NULL, NULL, NULL, NULL,
           s.unreachable
    FROM concerned AS e JOIN escalation_steps AS s ON s.escalation_id = e.id
    UNION ALL
    SELECT 3, 'notification', n.created_at, 'system', e.id, NULL, n.pass, n.tier, n.status::text, n.id, n.channel,
           n.address, n.error, NULL
    FROM concerned AS e JOIN notifications AS n ON n.escalation_id = e.id
    UNION ALL
    SELECT 4, 'escalation', e.ended_at, COALESCE(e.ended_by, 'system'), e.id, e.policy_name, NULL, NULL, e.status::text,
           NULL, NULL, NULL, NULL, NULL
    FROM concerned AS e WHERE e.ended_at IS NOT NULL
)
SELECT * FROM entries ORDER BY created_at, rank, escalation_id, notification_id;
