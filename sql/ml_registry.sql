-- name: ensure_series!
-- Makes the row of a series where there is none.
INSERT INTO ml_series (device_id, metric) VALUES (:device_id, :metric)
ON CONFLICT (device_id, metric) DO NOTHING;

-- name: get_last_number$
-- The number of a series' newest reading.
SELECT last_number FROM ml_series WHERE device_id = :device_id::uuid AND metric = :metric;

-- name: lock_series^
-- A series by its key, locked: no reading is numbered and no model activated meanwhile.
SELECT id AS series_id, active_model_id, last_number, activated_number
FROM ml_series
WHERE device_id = :device_id::uuid AND metric = :metric
FOR UPDATE;

-- name: take_version$
-- The number of the next version.
UPDATE ml_series SET last_version = last_version + 1 WHERE id = :series_id RETURNING last_version;

-- name: insert_model$
-- Keeps a new version: trained already, or still to be.
INSERT INTO ml_models (series_id, version, status, algorithm, learns_from, rows_total, rows_done, data_start, data_end,
                       created_by, metrics, state, trained_at)
VALUES (:series_id, :version, :status, :algorithm, :learns_from, :rows_total, :rows_done, :data_start, :data_end,
        :created_by, :metrics::jsonb, :state, CASE :status WHEN 'ready' THEN app_now() END)
RETURNING id;

-- name: complete_model!
-- Puts the trained state into a version.
UPDATE ml_models
SET status = 'ready', state = :state, metrics = :metrics::jsonb, rows_done = rows_total, trained_at = app_now()
WHERE id = :model_id AND status = 'training';

-- name: fail_model!
-- Marks a version that could not be trained.
UPDATE ml_models SET status = 'failed', error = :error WHERE id = :model_id AND status = 'training';

-- name: get_model^
-- One version, without its state.
SELECT * FROM v_ml_models WHERE model_id = :model_id;

-- name: get_state^
-- The state that a version would go on from.
SELECT COALESCE(p.state, m.state) AS state
FROM ml_models AS m LEFT JOIN ml_snapshots AS p ON p.model_id = m.id
WHERE m.id = :model_id;

-- name: get_record^
-- How a version has done.
SELECT * FROM ml_model_record(:model_id, :device_id::uuid, :metric);

-- name: list_models
-- A page of versions, newest first.
SELECT * FROM v_ml_models
WHERE (:device_id::uuid IS NULL OR device_id = :device_id::text) AND (:metric::text IS NULL OR metric = :metric)
    AND (:is_active::boolean IS NULL OR is_active = :is_active)
    AND (:cursor_at::timestamptz IS NULL OR (created_at, model_id) < (:cursor_at::timestamptz, :cursor_id::bigint))
ORDER BY created_at DESC, model_id DESC
OFFSET :offset LIMIT :limit;

-- name: count_models$
-- How many versions there are.
SELECT count(*) FROM v_ml_models
WHERE (:device_id::uuid IS NULL OR device_id = :device_id::text) AND (:metric::text IS NULL OR metric = :metric)
    AND (:is_active::boolean IS NULL OR is_active = :is_active);

-- name: end_activation!
-- Adds what a version has scored to its count.
UPDATE ml_models SET readings = readings + :readings WHERE id = :model_id;

-- name: skip_to!
-- Lets a version go on from where the series is now, with what it knew: what came while it rested, it never sees.
INSERT INTO ml_snapshots AS p (model_id, number, since, state)
SELECT id, :number, app_now(), state FROM ml_models WHERE id = :model_id
ON CONFLICT (model_id) DO UPDATE SET number = EXCLUDED.number, since = EXCLUDED.since;

-- name: set_active!
-- Makes a version the one that scores, or none (NULL); what processes have cached of the series holds no more.
UPDATE ml_series
SET active_model_id = :model_id, activation = activation + 1, activated_number = last_number
WHERE id = :series_id;

-- name: delete_model!
-- Forgets a version.
DELETE FROM ml_models WHERE id = :model_id;

-- name: count_false_positives
-- How many alerts were called false, by algorithm; versions that are gone count as unknown.
SELECT COALESCE(m.algorithm, 'unknown') AS algorithm, count(*) AS false_positives
FROM ml_false_positives AS f LEFT JOIN ml_models AS m ON m.id = f.model_id
GROUP BY 1 ORDER BY 1;
