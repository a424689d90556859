-- name: lock_migrations$
-- Waits until no other process migrates; the lock ends with the session. The number names this product.
SELECT pg_advisory_lock(5002000001);

-- name: has_migrations_table$
-- Whether anything was ever migrated here.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: create_migrations_table#
-- The book of what ran.
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: list_applied
-- Numbers and checksums of the migrations that ran.
SELECT number, checksum FROM schema_migrations ORDER BY number;

-- name: record_applied!
-- Books one migration, in the transaction that ran it.
INSERT INTO schema_migrations (number, name, checksum) VALUES (:number, :name, :checksum);
