-- name: fold_tallies$
-- Folds a batch of tally entries.
SELECT fold_tallies();

-- name: forget_idempotency_keys!
-- Forgets answers that nobody may ask for any more.
DELETE FROM idempotency_keys WHERE created_at <= app_now() - interval '24 hours';

-- name: forget_login_failures!
-- Forgets failed logins that no throttle looks at any more.
DELETE FROM login_failures WHERE failed_at <= app_now() - interval '1 day';
