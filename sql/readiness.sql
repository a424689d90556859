-- name: get_beat_age$
-- Seconds since the last beat of any worker, NULL where none ever ran. Real time, whatever a simulation says.
SELECT extract(epoch FROM clock_timestamp() - max(beat_at)) FROM worker_heartbeats;
