-- name: set_clock^
-- Sets the product's SQL clock for this session.
SELECT set_config('app.now', :at, false);

-- name: set_random_seed^
-- Makes the session's random numbers the same in every run.
SELECT setseed(:seed);

-- name: raise_episodes$
-- Raises one batch of alerts in episodes of 1 to 21: a device chatters about one metric for some seconds, in two
-- wordings. The devices are consecutive numbers; the episodes spread over span_seconds before the session's clock.
-- Returns how many were raised.
WITH episodes AS MATERIALIZED (
    SELECT md5('device ' || :first_device + floor(random() * :devices)::integer)::uuid AS device_id,
           (ARRAY['temperature', 'vibration', 'pressure', 'current'])[1 + floor(random() * 4)::integer] AS metric,
           width_bucket(random(), ARRAY[0.0, 0.2, 0.5, 0.8, 0.95]) AS severity_rank,
           app_now() - make_interval(secs => 60 + random() * :span_seconds) AS began_at,
           1 + floor(21 * random() ^ 3)::integer AS size,
           episode
    FROM generate_series(1, :size) AS episode
), reports AS (
    SELECT e.device_id, e.metric, s.severity, e.began_at + n * interval '3 seconds' AS occurred_at,
           initcap(e.metric) || (ARRAY[' above its limit', ' rises too fast'])[1 + mod(n, 2)] AS message,
           jsonb_build_object(e.metric, round((80 + 40 * random())::numeric, 1), 'line', mod(e.episode, 12)) AS metadata
    FROM episodes AS e
    CROSS JOIN LATERAL generate_series(1, e.size) AS n
    CROSS JOIN LATERAL (
        SELECT (ARRAY['info', 'low', 'medium', 'high', 'critical']::alert_severity[])[e.severity_rank] AS severity
    ) AS s
    ORDER BY e.episode, n
    LIMIT :size
)
SELECT count(*) FROM raise_alerts(ARRAY(
    SELECT ROW(device_id, severity, message, metadata, metric, 'gateway', occurred_at, true, severity::text)::alert_report
    FROM reports
), 'gateway ' || :first_device);

-- name: raise_fresh$
-- Raises critical alerts, each of a device of its own, in state new: what the acknowledgements take.
SELECT count(*) FROM raise_alerts(ARRAY(
    SELECT ROW(gen_random_uuid(), 'critical', 'Temperature threshold exceeded', '{"temperature": 85.5}'::jsonb,
               'temperature', 'fresh', app_now(), true, 'critical')::alert_report
    FROM generate_series(1, :size)
), 'gateway');

-- name: acknowledge_some!
-- A person takes every tenth original of one batch in hand. Duplicates follow.
INSERT INTO alert_states (alert_id, state, changed_by)
SELECT id, 'acknowledged', 'operator' FROM alerts
WHERE created_at = :raised_at::timestamptz AND reported_by = 'gateway ' || :first_device
    AND duplicate_of IS NULL AND state = 'new' AND mod(id, 10) = 0
ORDER BY id;

-- name: investigate_some!
-- The next step of what was acknowledged in one batch.
INSERT INTO alert_states (alert_id, state, changed_by)
SELECT id, 'investigating', 'operator' FROM alerts
WHERE created_at = :raised_at::timestamptz AND reported_by = 'gateway ' || :first_device
    AND duplicate_of IS NULL AND state = 'acknowledged'
ORDER BY id;

-- name: resolve_batch!
-- The sources of one batch have recovered: all that is open is resolved, and its groups close.
INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, resolution)
SELECT id, 'resolved', 'gateway', 'system', 'fixed' FROM alerts
WHERE created_at = :raised_at::timestamptz AND reported_by = 'gateway ' || :first_device
    AND duplicate_of IS NULL AND state <> 'resolved'
ORDER BY id;

-- name: fold_tallies$
-- Does what the worker does, before it starts.
SELECT fold_tallies();

-- name: flag_breaches^
-- Does what the worker does, before it starts.
SELECT * FROM flag_sla_breaches(10000);

-- name: count_alerts$
-- How many alerts there are.
SELECT count(*) FROM alerts;

-- name: analyze#
-- Refreshes statistics.
ANALYZE;

-- name: vacuum#
-- Leaves statistics and visibility as autovacuum would in time.
VACUUM (ANALYZE);

-- name: checkpoint#
-- Gives the measured part a journal of its own.
CHECKPOINT;

-- name: count_seeded^
-- What there is.
SELECT (SELECT count(*) FROM alerts) AS alerts,
       (SELECT count(*) FROM alerts WHERE state <> 'resolved') AS open_alerts,
       (SELECT count(*) FROM alerts WHERE duplicate_of IS NOT NULL) AS duplicates,
       (SELECT count(*) FROM alert_groups) AS groups,
       (SELECT count(*) FROM alert_groups WHERE status = 'active') AS active_groups,
       pg_database_size(current_database()) / 1048576 AS mib;

-- name: sample_alert_ids
-- Ids of some alerts from all over the table.
SELECT id FROM alerts WHERE source <> 'fresh' ORDER BY hashint8(id) LIMIT :limit;

-- name: list_fresh_ids
-- The alerts that nobody has acknowledged yet, set aside for that.
SELECT id FROM alerts WHERE source = 'fresh' AND state = 'new' ORDER BY id;

-- name: sample_devices
-- Some of the devices of the plant.
SELECT DISTINCT device_id::text AS device_id FROM alerts WHERE source = 'gateway' LIMIT :limit;
