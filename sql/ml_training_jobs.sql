-- name: insert_job!
-- Leaves a training to the worker.
INSERT INTO ml_training_jobs (model_id, readings) VALUES (:model_id, :readings);

-- name: claim_job^
-- The oldest training that nobody holds, leased to a worker; one that has been tried too often is passed over.
UPDATE ml_training_jobs AS j
SET leased_by = :worker, leased_until = clock_timestamp() + make_interval(secs => :lease_seconds),
    attempts = j.attempts + 1
FROM ml_models AS m, ml_series AS s
WHERE j.model_id = (
        SELECT model_id FROM ml_training_jobs
        WHERE (leased_until IS NULL OR leased_until < clock_timestamp()) AND attempts < :most_attempts
        ORDER BY model_id LIMIT 1
        FOR UPDATE SKIP LOCKED)
    AND m.id = j.model_id AND s.id = m.series_id
RETURNING j.model_id, j.readings, m.algorithm, m.version, s.device_id::text AS device_id, s.metric;

-- name: renew_lease!
-- Notes the progress; 0 rows where the lease has passed to another worker or the version was deleted.
WITH held AS (
    UPDATE ml_training_jobs SET leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE model_id = :model_id AND leased_by = :worker
    RETURNING model_id
)
UPDATE ml_models AS m SET rows_done = :rows_done FROM held WHERE m.id = held.model_id;

-- name: delete_job!
-- Ends a training; 0 rows where another worker holds it by now.
DELETE FROM ml_training_jobs WHERE model_id = :model_id AND leased_by = :worker;

-- name: give_up_jobs
-- Ends the trainings that have been tried too often.
DELETE FROM ml_training_jobs
WHERE attempts >= :most_attempts AND leased_until < clock_timestamp()
RETURNING model_id;
