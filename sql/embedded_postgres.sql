-- name: has_database$
-- Whether the product's database exists on the embedded server.
SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = 'advanced_alerting');

-- name: create_database#
-- The product's database. The built-in locale sorts the same on every machine, whatever its C library knows.
CREATE DATABASE advanced_alerting TEMPLATE template0 ENCODING 'UTF8'
    LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C';
