-- name: get_figures^
-- How long pages wait, and how long ago a worker last beat (NULL where none ever ran). Beats are real time, whatever a
-- simulation says.
SELECT
    (SELECT extract(epoch FROM clock_timestamp() - max(beat_at))::double precision FROM worker_heartbeats)
        AS worker_beat_age_seconds,
    (SELECT GREATEST(0, extract(epoch FROM app_now() - min(due_at)))::double precision FROM escalations
     WHERE ended_at IS NULL) AS escalation_lag_seconds,
    (SELECT extract(epoch FROM app_now() - min(oldest.created_at))::double precision
     FROM v_notification_channels AS c CROSS JOIN LATERAL (
         SELECT min(n.created_at) AS created_at FROM notifications AS n
         WHERE n.channel = c.channel AND n.status = 'pending'
     ) AS oldest) AS oldest_pending_notification_seconds;

-- name: list_channel_faults
-- The channels that a fault of the settings stopped within the hour, and why; one that has sent something since works.
SELECT c.channel, f.error
FROM v_notification_channels AS c
CROSS JOIN LATERAL (
    SELECT n.id, n.created_at, n.error FROM notifications AS n
    WHERE n.channel = c.channel AND n.is_setting_fault AND n.created_at > app_now() - interval '1 hour'
    ORDER BY n.created_at DESC, n.id DESC
    LIMIT 1
) AS f
WHERE NOT EXISTS (
    SELECT FROM notifications AS n
    WHERE n.channel = c.channel AND n.status IN ('sent', 'delivered') AND n.created_at >= f.created_at AND n.id > f.id)
ORDER BY c.channel;

-- name: count_notifications
-- How many notifications there are of each channel and status.
SELECT channel, status, count(*) AS notifications FROM notifications GROUP BY channel, status;

-- name: count_escalations
-- How many escalations there are of each status.
SELECT status, count(*) AS escalations FROM escalations GROUP BY status;
