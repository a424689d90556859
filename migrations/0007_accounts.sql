-- What sessions and the login throttle need.

-- Counts up with each new password: a login token carries the number it was issued under, so that a changed
-- password ends the sessions begun with the old one.
ALTER TABLE users ADD COLUMN session_number integer NOT NULL DEFAULT 1;

-- Expired failures are cleared away by age, whatever they throttle.
CREATE INDEX login_failures_failed_at ON login_failures (failed_at);
