-- name: get_user^
-- One user as clients see it.
SELECT id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
       sms_opted_out_at(phone) AS opted_out_of_sms_at
FROM users
WHERE id = :user_id;

-- name: lock_user^
-- One user, locked until the transaction ends.
SELECT id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
       sms_opted_out_at(phone) AS opted_out_of_sms_at
FROM users
WHERE id = :user_id
FOR UPDATE;

-- name: user_exists$
-- Whether there is such a user.
SELECT EXISTS (SELECT FROM users WHERE id = :user_id);

-- name: lock_administrators
-- The administrators, locked in one order: of two who remove one another, the second waits and sees the first done.
SELECT id AS user_id
FROM users
WHERE role = 'admin'
ORDER BY id
FOR UPDATE;

-- name: list_users
-- A page of users, newest first.
SELECT id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
       sms_opted_out_at(phone) AS opted_out_of_sms_at
FROM users
WHERE :cursor_at::timestamptz IS NULL
    OR (created_at, id) < (:cursor_at::timestamptz, :cursor_id::bigint)
ORDER BY created_at DESC, id DESC
OFFSET :offset LIMIT :limit;

-- name: count_users$
-- How many users there are.
SELECT count(*) FROM users;

-- name: insert_user^
-- Adds a user.
INSERT INTO users (email, name, role, password_hash, phone, time_zone)
VALUES (:email, :name, :role, :password_hash, :phone, :time_zone)
RETURNING id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
          sms_opted_out_at(phone) AS opted_out_of_sms_at;

-- name: insert_first_administrator$
-- Adds the administrator of an empty table; of two processes that try at once, the unique e-mail lets one through.
INSERT INTO users (email, name, role, password_hash)
SELECT :email, :name, 'admin', :password_hash
WHERE NOT EXISTS (SELECT FROM users)
ON CONFLICT (email) DO NOTHING
RETURNING id;

-- name: update_user^
-- Writes all that may change of a user; a new password ends the sessions begun with the old one.
UPDATE users
SET email = :email,
    name = :name,
    role = :role,
    phone = :phone,
    time_zone = :time_zone,
    password_hash = COALESCE(:password_hash, password_hash),
    session_number = session_number + CASE WHEN :password_hash IS NULL THEN 0 ELSE 1 END,
    updated_at = app_now()
WHERE id = :user_id
RETURNING id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
          sms_opted_out_at(phone) AS opted_out_of_sms_at;

-- name: delete_user!
-- Removes a user; alerts and their history keep the identifier.
DELETE FROM users WHERE id = :user_id;

-- name: get_credentials^
-- What a login is checked against.
SELECT id AS user_id, email, name, role, phone, time_zone, session_number, created_at, updated_at,
       sms_opted_out_at(phone) AS opted_out_of_sms_at, password_hash
FROM users
WHERE email = :email;

-- name: get_session^
-- What a token from a login depends on.
SELECT session_number AS number, role FROM users WHERE id = :user_id;

-- name: get_login_pause$
-- Seconds until another try is allowed, NULL when it is allowed now. Of each throttle, the failure that must leave the
-- window first is the one as many places from the newest as failures are allowed.
SELECT ceil(extract(EPOCH FROM max(blocking.failed_at) + make_interval(secs => :window_seconds) - app_now()))::integer
FROM (VALUES (:email_throttle, :email_failures), (:address_throttle, :address_failures)) AS rule (throttle, allowed)
CROSS JOIN LATERAL (
    SELECT l.failed_at
    FROM login_failures AS l
    WHERE l.throttle = rule.throttle AND l.failed_at > app_now() - make_interval(secs => :window_seconds)
    ORDER BY l.failed_at DESC
    OFFSET rule.allowed - 1 LIMIT 1
) AS blocking;

-- name: record_login_failure!
-- Counts a failure for each throttle, and forgets those that have left the window.
WITH forgotten AS (
    DELETE FROM login_failures
    WHERE failed_at < app_now() - make_interval(secs => :window_seconds)
)
INSERT INTO login_failures (throttle) VALUES (:email_throttle), (:address_throttle);

-- name: clear_login_failures!
-- Forgets the failures of one throttle.
DELETE FROM login_failures WHERE throttle = :throttle;
