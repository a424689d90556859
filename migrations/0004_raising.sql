-- Raising alerts: one at a time, by the hundred, and by plain SQL.

-- Places every single alert, whoever inserts it: the group it joins, and the earlier open alert with the
-- same message, whose state it takes over as a duplicate. The original is looked for in a statement of its
-- own: with the group's lock held it sees what a concurrent reporter has just committed; one statement for
-- both would not.
CREATE FUNCTION place_alert() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_joined         record;
    v_window_seconds integer := COALESCE(NULLIF(current_setting('app.window_seconds', true), ''), '300')::integer;
BEGIN
    IF current_setting('app.alerts_are_placed', true) = 'true' THEN
        RETURN NEW;
    END IF;
    IF NEW.metric = '' AND jsonb_typeof(NEW.metadata -> 'metric') = 'string' THEN
        NEW.metric := NEW.metadata ->> 'metric';
    END IF;
    NEW.key_class := COALESCE(NEW.key_class, NEW.severity::text);
    SELECT * INTO v_joined FROM join_alert_group(
        NEW.device_id, NEW.metric, NEW.key_class, NEW.severity, NEW.occurred_at, v_window_seconds, 1);
    NEW.group_id := v_joined.group_id;
    NEW.duplicate_of := NULL;
    NEW.state := 'new';
    IF NOT v_joined.opened THEN
        SELECT a.id, a.state INTO NEW.duplicate_of, NEW.state FROM alerts AS a
        WHERE a.group_id = NEW.group_id AND md5(a.message) = md5(NEW.message) AND a.message = NEW.message
            AND a.duplicate_of IS NULL AND a.state <> 'resolved';
        IF NOT FOUND THEN
            NEW.state := 'new';
        END IF;
    END IF;
    INSERT INTO tally_entries (severity, state, alerts, groups_opened, largest_group)
    VALUES (NEW.severity, NEW.state, 1, v_joined.opened::integer, v_joined.occurrence_count);
    RETURN NEW;
END $$;
CREATE TRIGGER alerts_place BEFORE INSERT ON alerts
    FOR EACH ROW EXECUTE FUNCTION place_alert();

-- Gives every new alert its first state and its SLA clocks: once per statement, so that a batch of a
-- thousand costs one pass. A duplicate of an acknowledged alert arrives acknowledged, so its own clock to
-- acknowledge stands at zero.
CREATE FUNCTION record_raised_alerts() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
    SELECT id, state, reported_by, 'system', created_at FROM raised;

    INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                            tta_due_at, ttr_due_at, next_due_at, acknowledged_at, actual_tta)
    SELECT r.id, r.severity, r.duplicate_of IS NOT NULL, r.created_at, t.target_tta, t.target_ttr,
           r.created_at + make_interval(mins => t.target_tta), r.created_at + make_interval(mins => t.target_ttr),
           r.created_at + make_interval(mins => CASE r.state WHEN 'new' THEN t.target_tta ELSE t.target_ttr END),
           CASE WHEN r.state <> 'new' THEN r.created_at END, CASE WHEN r.state <> 'new' THEN 0 END
    FROM raised AS r JOIN sla_targets AS t USING (severity);
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_record AFTER INSERT ON alerts
    REFERENCING NEW TABLE AS raised FOR EACH STATEMENT EXECUTE FUNCTION record_raised_alerts();

-- Raises one alert: the hot path, one call and one commit.
CREATE FUNCTION raise_alert(
    p_device_id uuid, p_severity alert_severity, p_message text, p_metadata jsonb DEFAULT '{}',
    p_metric text DEFAULT '', p_source text DEFAULT '', p_occurred_at timestamptz DEFAULT NULL,
    p_escalate boolean DEFAULT true, p_reported_by text DEFAULT 'system', p_key_class text DEFAULT NULL
) RETURNS TABLE (alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint,
                 created_at timestamptz, target_tta integer, target_ttr integer)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO alerts AS a (device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                             reported_by, key_class)
    VALUES (p_device_id, p_severity, p_message, p_metadata, p_metric, p_source,
            COALESCE(p_occurred_at, app_now()), p_escalate, p_reported_by, p_key_class)
    RETURNING a.id, a.state, a.group_id, a.duplicate_of, a.created_at
    INTO alert_id, state, group_id, duplicate_of, created_at;
    SELECT s.target_tta, s.target_ttr INTO target_tta, target_ttr
    FROM alert_slas AS s WHERE s.alert_id = raise_alert.alert_id;
    RETURN NEXT;
END $$;

-- One alert of a batch, checked by the caller.
CREATE TYPE alert_report AS (
    device_id uuid, severity alert_severity, message text, metadata jsonb, metric text, source text,
    occurred_at timestamptz, escalate boolean, key_class text
);

-- Finds the group of every report, in order: element n of the result belongs to report n. Keys are taken in
-- sorted order, so that two batches never wait for each other; within a key the reports come in the order
-- given, as they would one by one.
CREATE FUNCTION place_reports(p_reports alert_report[], p_window_seconds integer) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_group_ids bigint[] := array_fill(0::bigint, ARRAY[cardinality(p_reports)]);
    v_window    interval := make_interval(secs => p_window_seconds);
    v_joined    record;
    v_last_at   timestamptz;
    v_key       text;
    v_opened    integer := 0;
    r           record;
BEGIN
    FOR r IN
        SELECT position, device_id, metric, key_class, severity, occurred_at,
               device_id::text || metric || ':' || key_class AS key
        FROM unnest(p_reports) WITH ORDINALITY
             AS t (device_id, severity, message, metadata, metric, source, occurred_at, escalate, key_class, position)
        ORDER BY device_id, metric, key_class, position
    LOOP
        -- join_alert_group refuses what lies too far ahead.
        IF v_key IS DISTINCT FROM r.key OR r.occurred_at > v_last_at + v_window
            OR r.occurred_at > app_now() + interval '5 minutes' THEN
            IF v_key = r.key THEN
                -- The batch itself outruns the window: what it brought so far ends the old group.
                UPDATE alert_groups SET last_occurrence_at = GREATEST(last_occurrence_at, v_last_at)
                WHERE id = v_joined.group_id;
            END IF;
            SELECT * INTO v_joined FROM join_alert_group(
                r.device_id, r.metric, r.key_class, r.severity, r.occurred_at, p_window_seconds, 0);
            v_key := r.key;
            v_last_at := v_joined.last_occurrence_at;
            v_opened := v_opened + v_joined.opened::integer;
        END IF;
        v_last_at := GREATEST(v_last_at, r.occurred_at);
        v_group_ids[r.position] := v_joined.group_id;
    END LOOP;
    INSERT INTO tally_entries (groups_opened) VALUES (v_opened);
    RETURN v_group_ids;
END $$;

-- Raises a batch, all or nothing, as if its reports had come one by one, in set-based passes: groups,
-- alerts, counts. Returns one row per report, in order.
CREATE FUNCTION raise_alerts(p_reports alert_report[], p_reported_by text DEFAULT 'system')
RETURNS TABLE (alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint,
               created_at timestamptz, target_tta integer, target_ttr integer)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_window_seconds integer := COALESCE(NULLIF(current_setting('app.window_seconds', true), ''), '300')::integer;
    v_group_ids bigint[];
    v_ids       bigint[];
BEGIN
    v_group_ids := place_reports(p_reports, v_window_seconds);
    SELECT array_agg(nextval(pg_get_serial_sequence('alerts', 'id'))) INTO v_ids
    FROM generate_series(1, cardinality(p_reports));

    PERFORM set_config('app.alerts_are_placed', 'true', true);
    INSERT INTO alerts (id, device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                        key_class, reported_by, group_id, duplicate_of, state)
    SELECT n.id, n.device_id, n.severity, n.message, n.metadata, n.metric, n.source, n.occurred_at, n.escalate,
           n.key_class, p_reported_by, n.group_id,
           COALESCE(o.id, NULLIF(n.first_id, n.id)), COALESCE(o.state, 'new')
    FROM (
        SELECT r.*, min(r.id) OVER (PARTITION BY r.group_id, r.message) AS first_id
        FROM unnest(p_reports, v_group_ids, v_ids)
             AS r (device_id, severity, message, metadata, metric, source, occurred_at, escalate, key_class,
                   group_id, id)
    ) AS n
    LEFT JOIN alerts AS o ON o.group_id = n.group_id AND md5(o.message) = md5(n.message) AND o.message = n.message
        AND o.duplicate_of IS NULL AND o.state <> 'resolved'
    ORDER BY n.id;
    PERFORM set_config('app.alerts_are_placed', '', true);

    PERFORM count_raised_alerts(v_ids);
    RETURN QUERY
    SELECT a.id, a.state, a.group_id, a.duplicate_of, a.created_at, s.target_tta, s.target_ttr
    FROM unnest(v_ids) WITH ORDINALITY AS i (id, position)
    JOIN alerts AS a ON a.id = i.id JOIN alert_slas AS s ON s.alert_id = i.id
    ORDER BY i.position;
END $$;

-- Adds the alerts of a batch to the counts of their groups and to the tallies.
CREATE FUNCTION count_raised_alerts(p_ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    WITH raised AS (
        SELECT a.* FROM alerts AS a WHERE a.id = ANY (p_ids)
    ), counted AS (
        UPDATE alert_groups AS g
        SET occurrence_count = g.occurrence_count + n.arrived,
            open_alerts = g.open_alerts + n.arrived,
            first_occurrence_at = LEAST(g.first_occurrence_at, n.first_at),
            last_occurrence_at = GREATEST(g.last_occurrence_at, n.last_at),
            severity = GREATEST(g.severity, n.severity)
        FROM (SELECT group_id, count(*) AS arrived, min(occurred_at) AS first_at, max(occurred_at) AS last_at,
                     max(severity) AS severity
              FROM raised GROUP BY group_id) AS n
        WHERE g.id = n.group_id
        RETURNING g.occurrence_count
    )
    INSERT INTO tally_entries (severity, state, alerts, largest_group)
    SELECT severity, state, count(*), 0 FROM raised GROUP BY severity, state
    UNION ALL
    SELECT NULL, NULL, 0, max(occurrence_count) FROM counted;
$$;
