-- name: beat!
-- Says that a worker is alive. Real time, whatever a simulation says: its age is measured against the real clock.
INSERT INTO worker_heartbeats AS h (worker, beat_at) VALUES (:worker, clock_timestamp())
ON CONFLICT (worker) DO UPDATE SET beat_at = clock_timestamp();

-- name: forget_old_beats!
-- Forgets workers that have been silent for a day.
DELETE FROM worker_heartbeats WHERE beat_at < clock_timestamp() - interval '1 day';
