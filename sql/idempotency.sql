-- name: claim_key$
-- Claims a key that is free or has expired; no row where it is taken. Waits for whoever is claiming it now.
INSERT INTO idempotency_keys AS k (caller, key, request_hash)
VALUES (:caller, :key, :request_hash)
ON CONFLICT (caller, key) DO UPDATE
SET request_hash = EXCLUDED.request_hash, answer = NULL, created_at = app_now()
WHERE k.created_at <= app_now() - make_interval(hours => :kept_hours)
RETURNING k.key;

-- name: get_key^
-- What a key was used for, and the answer it got.
SELECT request_hash, answer FROM idempotency_keys WHERE caller = :caller AND key = :key;

-- name: keep_answer!
-- Keeps the first answer.
UPDATE idempotency_keys SET answer = :answer::jsonb WHERE caller = :caller AND key = :key;
