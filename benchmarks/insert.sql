-- P: a plain INSERT of the payload of an alert.
INSERT INTO plain_alerts (device_id, severity, message, metadata, metric, source, occurred_at, escalate, reported_by)
VALUES (gen_random_uuid(), 'critical', 'Temperature threshold exceeded', '{"temperature": 85.5}', 'temperature', '',
        now(), true, 'bench');
