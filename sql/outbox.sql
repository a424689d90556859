-- name: is_anything_due$
-- Whether there is something to claim on these channels. They are part of the statement, so that its plan is kept.
SELECT EXISTS (SELECT FROM notifications AS n WHERE n.channel = ANY (:channels) AND n.due_at <= app_now());

-- name: claim_notifications
-- Takes notifications that are due, so many of each channel, for the length of a lease; one whose lease has run out was
-- being sent by a worker that died or hangs. Nothing is claimed for an escalation that a person has ended.
-- Channels and limits are part of the statement (CAST, not ::), so that its plan is kept: planning it takes longer than
-- running it.
WITH due AS (
    SELECT n.id, n.status = 'sending' AS was_interrupted
    FROM unnest(CAST(:channels AS text[]), CAST(:limits AS integer[])) AS free (channel, senders)
    CROSS JOIN LATERAL (
        SELECT n.id, n.status FROM notifications AS n
        WHERE n.channel = free.channel AND n.due_at <= app_now()
        ORDER BY n.due_at
        LIMIT free.senders
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS n
), claimed AS (
    UPDATE notifications AS n
    SET status = CASE e.status WHEN 'cancelled' THEN 'cancelled' ELSE 'sending' END::notification_status,
        due_at = CASE WHEN e.status <> 'cancelled' THEN app_now() + make_interval(secs => CAST(:lease_seconds AS float8)) END,
        error = CASE WHEN e.status = 'cancelled' THEN 'the worker that sent it stopped' ELSE n.error END,
        attempts = n.attempts + (e.status <> 'cancelled')::integer,
        give_up_at = COALESCE(n.give_up_at, app_now() + make_interval(secs => CAST(:give_up_seconds AS float8))),
        may_have_gone_out = n.may_have_gone_out OR due.was_interrupted
    FROM due, escalations AS e
    WHERE n.id = due.id AND e.id = n.escalation_id
    RETURNING n.*
)
SELECT c.id AS notification_id, c.channel, c.attempts, c.address, c.may_have_gone_out,
       extract(epoch FROM c.give_up_at - app_now())::double precision AS seconds_left,
       a.id AS alert_id, a.severity, a.device_id::text AS device_id, a.message, a.metric, a.occurred_at,
       find_device_name(a) AS device_name
FROM claimed AS c JOIN alerts AS a ON a.id = c.alert_id
WHERE c.status = 'sending'
ORDER BY c.id;

-- name: record_sent!
-- Records that the other side took a notification in, unless a report of what became of it came first.
UPDATE notifications
SET status = CASE WHEN status IN ('delivered', 'failed') AND sent_at IS NOT NULL THEN status
                  ELSE 'sent' END::notification_status,
    sent_at = COALESCE(sent_at, app_now()), due_at = NULL,
    error = CASE WHEN status = 'failed' AND sent_at IS NOT NULL THEN error END,
    provider_id = COALESCE(provider_id, :provider_id), provider_status = COALESCE(provider_status, :provider_status),
    segments = COALESCE(:segments, segments), price = COALESCE(:price, price),
    price_unit = COALESCE(:price_unit, price_unit)
WHERE id = :notification_id;

-- name: retry_notification$
-- Records a failed attempt that another one follows.
SELECT retry_notification(:notification_id, :attempt, app_now() + make_interval(secs => :pause_seconds), :error,
                          :may_have_gone_out);

-- name: fail_notification$
-- Records an attempt that no other follows.
SELECT fail_notification(:notification_id::bigint, :attempt::integer, :status::notification_status, :error::text,
                         :is_setting_fault::boolean);
