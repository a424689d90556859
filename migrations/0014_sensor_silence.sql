-- A sensor that a model watches and that has fallen silent: the alert that says so, until it speaks again.
ALTER TABLE ml_series ADD COLUMN silence_alert_id bigint;
COMMENT ON COLUMN ml_series.silence_alert_id IS 'the alert for the silence that goes on; NULL while readings come';
