-- name: get_group^
-- One group as clients see it.
SELECT * FROM v_alert_groups WHERE group_id = :group_id;

-- name: lock_group$
-- Locks one group, which comes before its alerts in the lock order.
SELECT id FROM alert_groups WHERE id = :group_id FOR NO KEY UPDATE;

-- name: list_groups
-- A page over all devices. Each status is read in order from its own stretch of alert_groups_status_newest,
-- and the few rows that could make the page are merged.
SELECT v.*
FROM unnest(CAST(:statuses AS alert_group_status[])) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT *
    FROM v_alert_groups AS g
    WHERE g.status = wanted.status
        AND (:start_at::timestamptz IS NULL OR g.first_occurrence_at >= :start_at::timestamptz)
        AND (:end_at::timestamptz IS NULL OR g.first_occurrence_at < :end_at::timestamptz)
        AND (:cursor_at::timestamptz IS NULL
             OR (g.first_occurrence_at, g.group_id) < (:cursor_at::timestamptz, :cursor_id::bigint))
    ORDER BY g.first_occurrence_at DESC, g.group_id DESC
    LIMIT :depth
) AS v
ORDER BY v.first_occurrence_at DESC, v.group_id DESC
OFFSET :offset LIMIT :limit;

-- name: list_device_groups
-- A page of one device's groups, in order from alert_groups_device_newest.
SELECT v.*
FROM (
    SELECT g.id, g.first_occurrence_at
    FROM alert_groups AS g
    WHERE g.device_id = :device_id::uuid AND g.status = ANY (:statuses::alert_group_status[])
        AND (:start_at::timestamptz IS NULL OR g.first_occurrence_at >= :start_at::timestamptz)
        AND (:end_at::timestamptz IS NULL OR g.first_occurrence_at < :end_at::timestamptz)
        AND (:cursor_at::timestamptz IS NULL
             OR (g.first_occurrence_at, g.id) < (:cursor_at::timestamptz, :cursor_id::bigint))
    ORDER BY g.first_occurrence_at DESC, g.id DESC
    OFFSET :offset LIMIT :limit
) AS page
JOIN v_alert_groups AS v ON v.group_id = page.id
ORDER BY page.first_occurrence_at DESC, page.id DESC;

-- name: count_by_status$
-- The exact total from the tallies.
SELECT CASE WHEN 'active' = ANY (:statuses::text[]) THEN active_groups ELSE 0 END
     + CASE WHEN 'closed' = ANY (:statuses::text[]) THEN closed_groups ELSE 0 END
FROM v_alert_group_stats;

-- name: count_groups$
-- The total up to where it is still counted, plus one.
SELECT count(*) FROM (
    SELECT 1 FROM alert_groups AS g
    WHERE g.status = ANY (:statuses::alert_group_status[])
        AND (:device_id::uuid IS NULL OR g.device_id = :device_id::uuid)
        AND (:start_at::timestamptz IS NULL OR g.first_occurrence_at >= :start_at::timestamptz)
        AND (:end_at::timestamptz IS NULL OR g.first_occurrence_at < :end_at::timestamptz)
    LIMIT 10001
) AS counted;

-- name: estimate_groups$
-- What the planner believes the total to be.
EXPLAIN (FORMAT JSON) SELECT 1 FROM alert_groups AS g
WHERE g.status = ANY (:statuses::alert_group_status[])
    AND (:device_id::uuid IS NULL OR g.device_id = :device_id::uuid)
    AND (:start_at::timestamptz IS NULL OR g.first_occurrence_at >= :start_at::timestamptz)
    AND (:end_at::timestamptz IS NULL OR g.first_occurrence_at < :end_at::timestamptz);

-- name: get_statistics^
-- The figures of all groups.
SELECT total_groups, active_groups, closed_groups, total_alerts, avg_alerts_per_group, max_alerts_in_group,
       noise_reduction_pct
FROM v_alert_group_stats;
