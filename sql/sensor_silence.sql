-- name: list_silent
-- Watched series without a reading for longer than they should be: some sampling steps, three usual pauses between
-- deliveries (a gateway may collect), or a quarter of an hour, the longest of them. Both are medians of the last
-- hundred readings. Readings that were old when they came in (replays, uploads) promise no next one.
-- The newest reading alone rules out nearly all series: the hundred are read for what is left.
WITH quiet AS MATERIALIZED (
    SELECT s.* FROM ml_series AS s
    WHERE s.active_model_id IS NOT NULL AND s.silence_alert_id IS NULL
        AND EXISTS (
            SELECT FROM telemetry AS t
            WHERE t.series_id = s.id AND t.number = s.last_number AND t.stored_at > app_now() - interval '8 days'
                AND t.stored_at <= app_now() - interval '15 minutes')
)
SELECT s.id AS series_id, s.device_id::text AS device_id, s.metric, s.active_model_id AS model_id, s.last_number,
       recent.read_at
FROM quiet AS s
CROSS JOIN LATERAL (
    SELECT max(t.read_at) AS read_at, max(t.stored_at) AS stored_at,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY t.read_at - t.earlier_read_at) AS step,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY t.stored_at - t.earlier_stored_at)
               FILTER (WHERE t.stored_at - t.earlier_stored_at > interval '1 second') AS pause
    FROM (
        SELECT r.read_at, r.stored_at, lag(r.read_at) OVER in_order AS earlier_read_at,
               lag(r.stored_at) OVER in_order AS earlier_stored_at
        FROM telemetry AS r
        WHERE r.series_id = s.id AND r.number > s.last_number - 100 AND r.stored_at > app_now() - interval '8 days'
        WINDOW in_order AS (ORDER BY r.number)
    ) AS t
) AS recent
WHERE recent.stored_at - recent.read_at < GREATEST(3 * recent.step, interval '5 minutes')
    AND recent.stored_at <= app_now() - GREATEST(:steps * recent.step, 3 * recent.pause, interval '15 minutes');

-- name: lock_if_still_silent^
-- Locks a series; no row where a reading came meanwhile, or somebody else has raised the alert.
SELECT id FROM ml_series WHERE id = :series_id AND last_number = :last_number AND silence_alert_id IS NULL FOR UPDATE;

-- name: keep_alert!
-- Keeps which alert tells of the silence.
UPDATE ml_series SET silence_alert_id = :alert_id WHERE id = :series_id;

-- name: list_returned
-- Series that speak again, and the alert of their silence.
SELECT s.id AS series_id, s.metric, s.silence_alert_id AS alert_id
FROM ml_series AS s JOIN alerts AS a ON a.id = s.silence_alert_id
WHERE EXISTS (
    SELECT FROM telemetry AS t
    WHERE t.series_id = s.id AND t.number = s.last_number AND t.stored_at > a.created_at);

-- name: forget_alert!
-- The silence is over; nothing happens where somebody else has said so.
UPDATE ml_series SET silence_alert_id = NULL WHERE id = :series_id AND silence_alert_id = :alert_id;
