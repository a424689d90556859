-- Anomaly models: the series they watch, the log of their readings, the versions, and how far each has learnt.

-- The running clock. app_now() stands still within a transaction: of two readings that wait for the same series,
-- the one that comes second would be the earlier.
CREATE FUNCTION app_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE
RETURN COALESCE(NULLIF(current_setting('app.now', true), '')::timestamptz, clock_timestamp());

-- One metric of one device. Its row is the lock under which its readings are numbered. last_number changes with every
-- reading and is in no index, so that the update stays on its page.
CREATE TABLE ml_series (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id        uuid NOT NULL,
    last_number      bigint NOT NULL DEFAULT 0,
    activation       bigint NOT NULL DEFAULT 0,
    activated_number bigint NOT NULL DEFAULT 0,
    active_model_id  bigint,
    last_version     integer NOT NULL DEFAULT 0,
    metric           text NOT NULL,
    CONSTRAINT ml_series_device_metric_unique UNIQUE (device_id, metric)
) WITH (fillfactor = 50);
COMMENT ON COLUMN ml_series.last_number IS 'the number of the newest reading';
COMMENT ON COLUMN ml_series.activation IS 'counts changes of the active model: what a process has cached holds for one of them';
COMMENT ON COLUMN ml_series.activated_number IS 'last_number when the active model became active';
COMMENT ON COLUMN ml_series.active_model_id IS 'the one version that scores; NULL: none does';

-- A version of a model, never changed once it is trained, but for the count of what it has scored.
CREATE TABLE ml_models (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_id   bigint NOT NULL REFERENCES ml_series (id),
    learns_from bigint NOT NULL,
    readings    bigint NOT NULL DEFAULT 0,
    rows_total  bigint NOT NULL,
    rows_done   bigint NOT NULL DEFAULT 0,
    version     integer NOT NULL,
    status      text NOT NULL CHECK (status IN ('training', 'ready', 'failed')),
    algorithm   text NOT NULL,
    data_start  timestamptz NOT NULL,
    data_end    timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT app_now(),
    trained_at  timestamptz,
    created_by  text NOT NULL,
    error       text,
    metrics     jsonb NOT NULL DEFAULT '{}',
    state       bytea,
    CONSTRAINT ml_models_version_unique UNIQUE (series_id, version),
    CONSTRAINT ml_models_ready_has_state CHECK (status <> 'ready' OR state IS NOT NULL)
);
COMMENT ON COLUMN ml_models.learns_from IS 'last_number of the series when its rows were taken: it learns what came after';
COMMENT ON COLUMN ml_models.readings IS 'scored in activations that have ended';
COMMENT ON COLUMN ml_models.state IS 'sealed, as trained';
CREATE INDEX ml_models_newest ON ml_models (created_at DESC, id DESC);
ALTER TABLE ml_series ADD CONSTRAINT ml_series_active_model FOREIGN KEY (active_model_id) REFERENCES ml_models (id);

-- How far a version has learnt the log. Written every few hundred readings; what came since is replayed.
CREATE TABLE ml_snapshots (
    model_id bigint PRIMARY KEY REFERENCES ml_models (id) ON DELETE CASCADE,
    number   bigint NOT NULL,
    since    timestamptz NOT NULL,
    state    bytea NOT NULL
);
COMMENT ON COLUMN ml_snapshots.number IS 'the newest reading that the state has learnt';
COMMENT ON COLUMN ml_snapshots.since IS 'when that reading was stored: nothing older has to be looked at';
-- Arrays of doubles hardly shrink: trying to compress them would only cost time.
ALTER TABLE ml_models ALTER COLUMN state SET STORAGE EXTERNAL;
ALTER TABLE ml_snapshots ALTER COLUMN state SET STORAGE EXTERNAL;

-- Trainings that the worker is to do: the row is the job, held by a lease that its worker renews.
CREATE TABLE ml_training_jobs (
    model_id     bigint PRIMARY KEY REFERENCES ml_models (id) ON DELETE CASCADE,
    attempts     integer NOT NULL DEFAULT 0,
    leased_by    text,
    leased_until timestamptz,
    readings     bytea NOT NULL
);
COMMENT ON COLUMN ml_training_jobs.readings IS 'seconds since 1970, then values, as little-endian doubles';
ALTER TABLE ml_training_jobs ALTER COLUMN readings SET STORAGE EXTERNAL;

-- The log: every reading that was given to predict, those too that the model then refused (late, repeated): replayed
-- in the order of its numbers it gives the same scores in any process. One partition a day, by the time of storing.
CREATE TABLE telemetry (
    series_id bigint NOT NULL,
    number    bigint NOT NULL,
    read_at   timestamptz NOT NULL,
    stored_at timestamptz NOT NULL,
    value     double precision NOT NULL
) PARTITION BY RANGE (stored_at);
CREATE INDEX telemetry_number ON telemetry (series_id, number);
CREATE INDEX telemetry_read_at ON telemetry (series_id, read_at);

-- Makes the partitions of some days that are not there yet. Attaching takes a weaker lock than CREATE ... PARTITION OF.
CREATE FUNCTION ensure_telemetry_partitions(p_first date, p_days integer) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    v_day  date;
    v_name text;
    v_made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('telemetry partitions'));
    FOR v_day IN SELECT p_first + n FROM generate_series(0, p_days - 1) AS n LOOP
        v_name := 'telemetry_' || to_char(v_day, 'YYYY_MM_DD');
        IF to_regclass(v_name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE telemetry INCLUDING DEFAULTS)', v_name);
            EXECUTE format('ALTER TABLE telemetry ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_day::timestamp AT TIME ZONE 'UTC', (v_day + 1)::timestamp AT TIME ZONE 'UTC');
            v_made := v_made + 1;
        END IF;
    END LOOP;
    RETURN v_made;
END $$;

-- Drops the partitions of days before one, and with them their readings. It waits for no long reader: others would wait
-- behind it, and it is tried again.
CREATE FUNCTION drop_telemetry_partitions(p_before date) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    v_name    text;
    v_dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('telemetry partitions'));
    FOR v_name IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'telemetry'::regclass AND c.relname < 'telemetry_' || to_char(p_before, 'YYYY_MM_DD')
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', v_name);
        v_dropped := v_dropped + 1;
    END LOOP;
    RETURN v_dropped;
END $$;

-- The readings of a series from p_after (excluded) to p_upto (included), as two arrays in order. Storing is not quite
-- in the order of numbers (one that waited for the series began earlier), hence the hour.
CREATE FUNCTION list_readings(
    p_series_id bigint, p_after bigint, p_upto bigint, p_since timestamptz,
    OUT seconds double precision[], OUT readings double precision[]
)
LANGUAGE sql STABLE AS $$
    SELECT array_agg(extract(epoch FROM t.read_at)::double precision ORDER BY t.number), array_agg(t.value ORDER BY t.number)
    FROM telemetry AS t
    WHERE t.series_id = p_series_id AND t.number > p_after AND t.number <= p_upto
        AND t.stored_at >= p_since - interval '1 hour';
$$;

-- Appends one reading: the hot path, one call and one commit. The caller says which activation its cached model belongs
-- to and up to which number that has learnt; the answer holds what came between. Nothing is appended, and number is
-- NULL, where another model has become active or the caller is too far behind: it has to load the model first.
CREATE FUNCTION append_reading(
    p_device_id uuid, p_metric text, p_read_at timestamptz, p_value double precision,
    p_activation bigint, p_number bigint, p_since timestamptz, p_most_missed bigint,
    OUT number bigint, OUT stored_at timestamptz, OUT at_seconds double precision,
    OUT missed_seconds double precision[], OUT missed_values double precision[]
)
LANGUAGE plpgsql AS $$
DECLARE
    v_series_id bigint;
    v_read_at   timestamptz;
BEGIN
    UPDATE ml_series AS s SET last_number = s.last_number + 1
    WHERE s.device_id = p_device_id AND s.metric = p_metric AND s.activation = p_activation
        AND s.last_number - p_number BETWEEN 0 AND p_most_missed
    RETURNING s.id, s.last_number INTO v_series_id, number;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    stored_at := app_now();
    v_read_at := COALESCE(p_read_at, app_clock());
    at_seconds := extract(epoch FROM v_read_at);
    INSERT INTO telemetry (series_id, number, read_at, stored_at, value)
    VALUES (v_series_id, number, v_read_at, stored_at, p_value);
    IF number > p_number + 1 THEN
        SELECT l.seconds, l.readings INTO missed_seconds, missed_values
        FROM list_readings(v_series_id, p_number, number - 1, p_since) AS l;
    END IF;
END $$;

-- The same for many readings of many series: p_device_ids to p_sinces describe the series, p_places says for each
-- reading which of them it belongs to (1 is the first). One row for each series that was appended to. The series are
-- locked in one order first: two batches never wait for each other.
CREATE FUNCTION append_readings(
    p_device_ids uuid[], p_metrics text[], p_activations bigint[], p_numbers bigint[], p_sinces timestamptz[],
    p_most_missed bigint, p_places integer[], p_read_ats timestamptz[], p_values double precision[]
) RETURNS TABLE (place integer, number_before bigint, stored_at timestamptz, now_seconds double precision,
                 missed_seconds double precision[], missed_values double precision[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now       timestamptz;
    v_stored_at timestamptz := app_now();
BEGIN
    PERFORM 1 FROM ml_series AS s
    JOIN unnest(p_device_ids, p_metrics) AS w (device_id, metric) ON s.device_id = w.device_id AND s.metric = w.metric
    ORDER BY s.id FOR NO KEY UPDATE OF s;
    v_now := app_clock();
    RETURN QUERY
    WITH given AS (
        SELECT r.place, r.read_at, r.value, row_number() OVER (PARTITION BY r.place ORDER BY r.position) AS rank
        FROM unnest(p_places, p_read_ats, p_values) WITH ORDINALITY AS r (place, read_at, value, position)
    ), wanted AS (
        SELECT w.*, c.arrived
        FROM unnest(p_device_ids, p_metrics, p_activations, p_numbers, p_sinces) WITH ORDINALITY
             AS w (device_id, metric, activation, number, since, place)
        JOIN (SELECT g.place, count(*) AS arrived FROM given AS g GROUP BY g.place) AS c USING (place)
    ), moved AS (
        UPDATE ml_series AS s SET last_number = s.last_number + w.arrived
        FROM wanted AS w
        WHERE s.device_id = w.device_id AND s.metric = w.metric AND s.activation = w.activation
            AND s.last_number - w.number BETWEEN 0 AND p_most_missed
        RETURNING w.place, s.id, s.last_number - w.arrived AS before, w.number AS seen, w.since
    ), appended AS (
        INSERT INTO telemetry (series_id, number, read_at, stored_at, value)
        SELECT m.id, m.before + g.rank, COALESCE(g.read_at, v_now), v_stored_at, g.value
        FROM moved AS m JOIN given AS g USING (place)
    )
    SELECT m.place::integer, m.before, v_stored_at, extract(epoch FROM v_now)::double precision, l.seconds, l.readings
    FROM moved AS m
    LEFT JOIN LATERAL list_readings(m.id, m.seen, m.before, m.since) AS l ON m.before > m.seen;
END $$;

-- Alerts of a model that somebody called false. Kept when the model is deleted, hence no foreign key.
CREATE TABLE ml_false_positives (
    alert_id  bigint PRIMARY KEY,
    model_id  bigint NOT NULL,
    called_at timestamptz NOT NULL DEFAULT app_now()
);

-- A trigger on steps, not on raising: reporting an alert pays nothing for it.
CREATE FUNCTION record_ml_false_positive() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.key_class = 'ml' AND NEW.metadata ->> 'model_id' ~ '^[1-9][0-9]{0,17}$' THEN
        INSERT INTO ml_false_positives (alert_id, model_id) VALUES (NEW.id, (NEW.metadata ->> 'model_id')::bigint)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_count_ml_false_positives AFTER UPDATE OF resolution ON alerts
    FOR EACH ROW WHEN (NEW.resolution = 'false_positive' AND OLD.resolution IS DISTINCT FROM NEW.resolution)
    EXECUTE FUNCTION record_ml_false_positive();

-- How a version has done: its alerts are those of its series' groups that name it.
CREATE FUNCTION ml_model_record(
    p_model_id bigint, p_device_id uuid, p_metric text,
    OUT alerts_raised bigint, OUT alerts_resolved bigint, OUT false_positives bigint,
    OUT measured_precision double precision, OUT promised_precision double precision
)
LANGUAGE sql STABLE AS $$
    SELECT count(*), count(*) FILTER (WHERE a.state = 'resolved'),
           count(*) FILTER (WHERE a.resolution = 'false_positive'),
           1.0 - count(*) FILTER (WHERE a.resolution = 'false_positive')::double precision
               / NULLIF(count(*) FILTER (WHERE a.state = 'resolved'), 0),
           avg((a.metadata ->> 'confidence')::double precision) FILTER (
               WHERE a.state = 'resolved' AND jsonb_typeof(a.metadata -> 'confidence') = 'number')
    FROM alert_groups AS g JOIN alerts AS a ON a.group_id = g.id
    WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = 'ml'
        AND a.metadata ->> 'model_id' = p_model_id::text;
$$;

-- Models as the API shows them; their states are large and stay behind.
CREATE VIEW v_ml_models AS
SELECT m.id AS model_id, s.id AS series_id, s.device_id::text AS device_id, s.metric, m.version, m.algorithm, m.status,
       s.active_model_id IS NOT DISTINCT FROM m.id AS is_active, m.rows_total, m.rows_done, m.error,
       m.data_start, m.data_end, m.metrics,
       m.rows_done + m.readings
           + CASE WHEN s.active_model_id = m.id THEN s.last_number - s.activated_number ELSE 0 END AS rows_seen,
       m.created_by, m.created_at, m.trained_at
FROM ml_models AS m JOIN ml_series AS s ON s.id = m.series_id;
