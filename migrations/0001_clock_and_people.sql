-- The clock, the vocabulary and the people.

-- The one SQL clock. Tests and simulations set app.now for their session or transaction; everything else
-- sees the start of the transaction, so that all rows of one transaction carry one instant.
CREATE FUNCTION app_now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN COALESCE(NULLIF(current_setting('app.now', true), '')::timestamptz, now());

-- Ordered from mild to grave, so that GREATEST() and max() find the graver one.
CREATE TYPE alert_severity AS ENUM ('info', 'low', 'medium', 'high', 'critical');
CREATE TYPE alert_state AS ENUM ('new', 'acknowledged', 'investigating', 'resolved');

CREATE TYPE alert_group_status AS ENUM ('active', 'closed');
CREATE TYPE alert_actor_kind AS ENUM ('user', 'system');
CREATE TYPE alert_resolution AS ENUM ('fixed', 'no_action', 'false_positive', 'duplicate');

-- Domains rather than CHECK constraints on the tables of the hot path: PostgreSQL keeps a domain's parsed
-- checks for the session, but parses a table's checks, WHEN clauses and generated columns again for every
-- INSERT (measured: 10 to 15 microseconds each).
CREATE DOMAIN alert_message AS text
    CONSTRAINT alert_message_length CHECK (char_length(VALUE) BETWEEN 1 AND 2000);
CREATE DOMAIN alert_metadata AS jsonb
    CONSTRAINT alert_metadata_type CHECK (jsonb_typeof(VALUE) = 'object');
CREATE DOMAIN occurrence_total AS bigint
    CONSTRAINT occurrence_total_not_negative CHECK (VALUE >= 0);

CREATE TABLE users (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         text NOT NULL CHECK (email = lower(email)),
    name          text NOT NULL,
    role          text NOT NULL CHECK (role IN ('viewer', 'device', 'operator', 'engineer', 'admin')),
    password_hash text,
    phone         text,
    time_zone     text NOT NULL DEFAULT 'UTC',
    created_at    timestamptz NOT NULL DEFAULT app_now(),
    updated_at    timestamptz NOT NULL DEFAULT app_now(),
    CONSTRAINT users_email_unique UNIQUE (email)
);

-- Failed logins by e-mail and by address, kept in the database so that the throttle holds across processes.
CREATE TABLE login_failures (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    throttle  text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT app_now()
);
CREATE INDEX login_failures_throttle ON login_failures (throttle, failed_at);

-- One row per background process: the age of the last beat shows on /ready.
CREATE TABLE worker_heartbeats (
    worker  text PRIMARY KEY,
    beat_at timestamptz NOT NULL
);

-- The first answer to a request that carried an Idempotency-Key, kept per caller for 24 hours.
CREATE TABLE idempotency_keys (
    caller        text NOT NULL,
    key           text NOT NULL,
    request_hash  text NOT NULL,
    answer        jsonb,
    created_at    timestamptz NOT NULL DEFAULT app_now(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys USING brin (created_at);
