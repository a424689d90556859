-- name: create_plain_table#
-- The table of yardstick P: a key and nothing else.
CREATE TABLE plain_alerts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id   uuid NOT NULL,
    severity    alert_severity NOT NULL,
    message     text NOT NULL,
    metadata    jsonb NOT NULL,
    metric      text NOT NULL,
    source      text NOT NULL,
    occurred_at timestamptz NOT NULL,
    escalate    boolean NOT NULL,
    reported_by text NOT NULL
);

-- name: create_small_database#
-- A database of its own for the small run.
CREATE DATABASE alerting_small;
