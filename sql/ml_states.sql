-- name: load_state^
-- The active model of a series as it was last kept, and the readings that came since. No row where none is active.
SELECT s.active_model_id AS model_id, m.version, s.activation, s.last_number, app_now() AS since, k.state,
       l.seconds AS missed_seconds, l.readings AS missed_values
FROM ml_series AS s
JOIN ml_models AS m ON m.id = s.active_model_id
LEFT JOIN ml_snapshots AS p ON p.model_id = m.id
CROSS JOIN LATERAL (
    SELECT COALESCE(p.number, m.learns_from) AS number, COALESCE(p.since, m.created_at) AS since,
           COALESCE(p.state, m.state) AS state) AS k
LEFT JOIN LATERAL list_readings(s.id, k.number, s.last_number, k.since) AS l ON true
WHERE s.device_id = :device_id::uuid AND s.metric = :metric;

-- name: keep_snapshot!
-- Keeps how far a model has learnt; one that has learnt more is never overwritten.
INSERT INTO ml_snapshots AS p (model_id, number, since, state)
SELECT m.id, :number, :since, :state FROM ml_models AS m WHERE m.id = :model_id
ON CONFLICT (model_id) DO UPDATE
SET number = EXCLUDED.number, since = EXCLUDED.since, state = EXCLUDED.state
WHERE p.number < EXCLUDED.number;
