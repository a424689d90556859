-- name: list_points
-- The readings of a series in a range of time. Where there are more than may be given, each of so many equal runs of
-- readings is shown by its smallest and its largest: a spike is never lost. A reading is at most minutes ahead of its
-- storing, hence the bound that leaves older partitions out.
WITH points AS (
    SELECT t.read_at, t.value, row_number() OVER (ORDER BY t.read_at, t.number) - 1 AS place, count(*) OVER () AS total
    FROM telemetry AS t
    JOIN ml_series AS s ON s.id = t.series_id
    WHERE s.device_id = :device_id::uuid AND s.metric = :metric
        AND (:start_at::timestamptz IS NULL
             OR (t.read_at >= :start_at::timestamptz AND t.stored_at >= :start_at::timestamptz - interval '1 hour'))
        AND (:end_at::timestamptz IS NULL OR t.read_at < :end_at::timestamptz)
), runs AS (
    SELECT *, CASE WHEN total <= :most THEN place ELSE place * (:most / 2) / total END AS run FROM points
), ranked AS (
    SELECT read_at, value, place, total,
           row_number() OVER (PARTITION BY run ORDER BY value, place) AS from_low,
           row_number() OVER (PARTITION BY run ORDER BY value DESC, place) AS from_high
    FROM runs
)
SELECT read_at, value, total FROM ranked WHERE from_low = 1 OR from_high = 1 ORDER BY place;

-- name: list_training_rows^
-- The readings of a series in a range of time as two arrays in order of time, one more than is allowed at most.
SELECT array_agg(extract(epoch FROM t.read_at)::double precision ORDER BY t.read_at, t.number) AS seconds,
       array_agg(t.value ORDER BY t.read_at, t.number) AS readings
FROM (
    SELECT t.read_at, t.value, t.number
    FROM telemetry AS t
    JOIN ml_series AS s ON s.id = t.series_id
    WHERE s.device_id = :device_id::uuid AND s.metric = :metric
        AND t.read_at >= :start_at AND t.stored_at >= :start_at::timestamptz - interval '1 hour'
        AND (:end_at::timestamptz IS NULL OR t.read_at < :end_at::timestamptz)
    ORDER BY t.read_at, t.number
    LIMIT :limit
) AS t;

-- name: ensure_partitions$
-- Makes the partitions of some days that are not there yet.
SELECT ensure_telemetry_partitions(:first_day, :days);

-- name: drop_partitions$
-- Drops the partitions of days before one.
SELECT drop_telemetry_partitions(:before);

-- name: list_series_that_lag
-- Series whose active model has not kept what it learnt of readings that are about to be dropped.
SELECT s.device_id::text AS device_id, s.metric
FROM ml_series AS s
JOIN ml_models AS m ON m.id = s.active_model_id
LEFT JOIN ml_snapshots AS p ON p.model_id = m.id
WHERE s.last_number > COALESCE(p.number, m.learns_from)
    AND COALESCE(p.since, m.created_at) < :before::timestamptz + interval '1 hour'
ORDER BY s.id;
