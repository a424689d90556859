-- Escalation policies and on-call schedules: what people write down beforehand. Who is on call is computed from
-- a schedule, never stored.

CREATE TABLE escalation_policies (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    description text NOT NULL DEFAULT '',
    enabled     boolean NOT NULL DEFAULT true,
    priority    integer NOT NULL DEFAULT 0,
    rules       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT app_now(),
    updated_at  timestamptz NOT NULL DEFAULT app_now(),
    CONSTRAINT escalation_policies_name_unique UNIQUE (name)
);
COMMENT ON COLUMN escalation_policies.rules IS 'severity_match, repeat and tiers, as the API takes them';

CREATE TABLE on_call_schedules (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                   text NOT NULL,
    rotation_type          text NOT NULL CHECK (rotation_type IN ('daily', 'weekly', 'custom')),
    rotation_start         timestamp NOT NULL,
    rotation_interval_days integer NOT NULL CHECK (rotation_interval_days BETWEEN 1 AND 9000),
    timezone               text NOT NULL,
    enabled                boolean NOT NULL DEFAULT true,
    users                  jsonb NOT NULL,
    created_at             timestamptz NOT NULL DEFAULT app_now(),
    updated_at             timestamptz NOT NULL DEFAULT app_now(),
    CONSTRAINT on_call_schedules_name_unique UNIQUE (name)
);
COMMENT ON COLUMN on_call_schedules.rotation_start IS 'local time of the zone, a whole minute';
COMMENT ON COLUMN on_call_schedules.users IS 'the users in the order of their shifts, and the overrides, oldest written first';
