-- A batch is raised in passes over all of its reports: groups, alerts with first states and clocks, pages.

DROP FUNCTION raise_alerts;
DROP FUNCTION place_reports;
DROP FUNCTION count_raised_alerts;

-- The reports of each key, cut where one comes later than the window after all before it: a run joins one group. Run 0
-- is the first of its key; positions count the reports from 1.
CREATE FUNCTION split_reports(p_reports alert_report[], p_window_seconds integer)
RETURNS TABLE (device_id uuid, metric text, key_class text, run bigint, first_position bigint, positions bigint[],
               arrived bigint, begins_at timestamptz, first_at timestamptz, last_at timestamptz,
               severity alert_severity)
LANGUAGE sql STABLE AS $$
    SELECT c.device_id, c.metric, c.key_class, c.run, min(c.position), array_agg(c.position ORDER BY c.position),
           count(*), (array_agg(c.occurred_at ORDER BY c.position))[1], min(c.occurred_at), max(c.occurred_at),
           max(c.severity)
    FROM (
        SELECT m.*, count(*) FILTER (WHERE m.occurred_at > m.latest_before + make_interval(secs => p_window_seconds))
                    OVER (PARTITION BY m.device_id, m.metric, m.key_class ORDER BY m.position) AS run
        FROM (
            SELECT r.*, max(r.occurred_at) OVER (PARTITION BY r.device_id, r.metric, r.key_class ORDER BY r.position
                                                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS latest_before
            FROM unnest(p_reports) WITH ORDINALITY
                 AS r (device_id, severity, message, metadata, metric, source, occurred_at, escalate, key_class,
                       position)
        ) AS m
    ) AS c
    GROUP BY c.device_id, c.metric, c.key_class, c.run;
$$;

-- Brings every report into its group and counts it there. Element n of group_ids belongs to report n. Keys are taken in
-- sorted order, all of them by one statement, so that two batches never wait for each other; within a key the reports
-- come in the order given, as one by one.
CREATE FUNCTION place_reports(
    p_reports alert_report[], p_window_seconds integer,
    OUT group_ids bigint[], OUT groups_opened bigint, OUT largest_group bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_is_left  boolean;
    v_is_ahead boolean;
    v_joined   record;
    v_size     bigint;
    v_position bigint;
    v_run      record;
BEGIN
    WITH runs AS MATERIALIZED (
        SELECT s.*, CASE s.run WHEN 0 THEN nextval('alert_groups_id_seq') END AS drawn_id
        FROM split_reports(p_reports, p_window_seconds) AS s
    ), placed AS (
        INSERT INTO alert_groups AS g (id, device_id, metric, key_class, severity, first_occurrence_at,
                                       last_occurrence_at, occurrence_count, open_alerts)
        OVERRIDING SYSTEM VALUE
        SELECT drawn_id, device_id, metric, key_class, severity, begins_at, last_at, arrived, arrived
        FROM runs WHERE run = 0
        ORDER BY device_id, metric, key_class
        ON CONFLICT (device_id, metric, key_class) WHERE status = 'active' DO UPDATE
        SET occurrence_count = g.occurrence_count + EXCLUDED.occurrence_count,
            open_alerts = g.open_alerts + EXCLUDED.open_alerts,
            first_occurrence_at = LEAST(g.first_occurrence_at, EXCLUDED.first_occurrence_at),
            last_occurrence_at = GREATEST(g.last_occurrence_at, EXCLUDED.last_occurrence_at),
            severity = GREATEST(g.severity, EXCLUDED.severity)
        WHERE EXCLUDED.first_occurrence_at <= g.last_occurrence_at + make_interval(secs => p_window_seconds)
        RETURNING g.id, g.device_id, g.metric, g.key_class, g.occurrence_count
    )
    SELECT array_agg(p.id ORDER BY position),
           count(*) FILTER (WHERE p.id = r.drawn_id AND position = r.first_position), max(p.occurrence_count),
           bool_or(p.id IS NULL OR r.first_at < r.begins_at), max(r.last_at) > app_now() + interval '5 minutes'
    INTO group_ids, groups_opened, largest_group, v_is_left, v_is_ahead
    FROM runs AS r
    LEFT JOIN placed AS p ON r.run = 0 AND p.device_id = r.device_id AND p.metric = r.metric
        AND p.key_class = r.key_class
    CROSS JOIN unnest(r.positions) AS position;
    IF v_is_ahead THEN
        RAISE EXCEPTION 'occurred_at lies more than 5 minutes ahead' USING ERRCODE = 'AA002';
    END IF;
    IF NOT v_is_left THEN
        RETURN;
    END IF;

    -- Left are the runs that found no group to join by that statement: most of them end the one before them. Their keys
    -- are ours by now.
    FOR v_run IN
        SELECT * FROM split_reports(p_reports, p_window_seconds) ORDER BY device_id, metric, key_class, run
    LOOP
        IF group_ids[v_run.first_position] IS NULL THEN
            SELECT * INTO v_joined FROM join_alert_group(
                v_run.device_id, v_run.metric, v_run.key_class, v_run.severity, v_run.begins_at, p_window_seconds, 0);
            UPDATE alert_groups AS g
            SET occurrence_count = g.occurrence_count + v_run.arrived,
                open_alerts = g.open_alerts + v_run.arrived,
                first_occurrence_at = LEAST(g.first_occurrence_at, v_run.first_at),
                last_occurrence_at = GREATEST(g.last_occurrence_at, v_run.last_at),
                severity = GREATEST(g.severity, v_run.severity)
            WHERE g.id = v_joined.group_id
            RETURNING g.occurrence_count INTO v_size;
            FOREACH v_position IN ARRAY v_run.positions LOOP
                group_ids[v_position] := v_joined.group_id;
            END LOOP;
            groups_opened := groups_opened + v_joined.opened::integer;
            largest_group := GREATEST(largest_group, v_size);
        ELSIF v_run.first_at < v_run.begins_at THEN
            -- A run is placed by the time of its first report; a later one that occurred earlier counts from here.
            UPDATE alert_groups AS g SET first_occurrence_at = LEAST(g.first_occurrence_at, v_run.first_at)
            WHERE g.id = group_ids[v_run.first_position];
        END IF;
    END LOOP;
END $$;

-- Raises reports, all or nothing, as if they had come one by one. Returns one row per report, in order.
CREATE FUNCTION raise_alerts(p_reports alert_report[], p_reported_by text DEFAULT 'system') RETURNS SETOF raised_alert
LANGUAGE plpgsql AS $$
DECLARE
    v_window_seconds integer := COALESCE(NULLIF(current_setting('app.window_seconds', true), ''), '300')::integer;
    v_placed         record;
    v_raised         raised_alert[];
    v_ids            bigint[];
    v_written        text;
BEGIN
    v_placed := place_reports(p_reports, v_window_seconds);

    v_written := set_config('app.alerts_are_placed', 'true', true);
    WITH numbered AS (
        SELECT r.*, nextval('alerts_id_seq') AS id
        FROM unnest(p_reports, v_placed.group_ids)
             AS r (device_id, severity, message, metadata, metric, source, occurred_at, escalate, key_class,
                   group_id)
    ), raised AS (
        INSERT INTO alerts (id, device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                            key_class, reported_by, group_id, duplicate_of, state)
        SELECT n.id, n.device_id, n.severity, n.message, n.metadata, n.metric, n.source, n.occurred_at, n.escalate,
               n.key_class, p_reported_by, n.group_id,
               COALESCE(o.id, NULLIF(n.first_id, n.id)), COALESCE(o.state, 'new')
        FROM (SELECT *, min(id) OVER (PARTITION BY group_id, message) AS first_id FROM numbered) AS n
        LEFT JOIN alerts AS o ON o.group_id = n.group_id AND md5(o.message) = md5(n.message)
            AND o.message = n.message AND o.duplicate_of IS NULL AND o.state <> 'resolved'
        ORDER BY n.id
        RETURNING id, severity, state, group_id, duplicate_of, created_at
    ), states AS (
        INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
        SELECT id, state, p_reported_by, 'system', created_at FROM raised
    ), clocks AS (
        INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                                tta_due_at, ttr_due_at, next_due_at, acknowledged_at, actual_tta)
        SELECT r.id, r.severity, r.duplicate_of IS NOT NULL, r.created_at, t.target_tta, t.target_ttr,
               r.created_at + make_interval(mins => t.target_tta), r.created_at + make_interval(mins => t.target_ttr),
               r.created_at + make_interval(mins => CASE r.state WHEN 'new' THEN t.target_tta ELSE t.target_ttr END),
               CASE WHEN r.state <> 'new' THEN r.created_at END, CASE WHEN r.state <> 'new' THEN 0 END
        FROM raised AS r JOIN sla_targets AS t ON t.severity = r.severity
    ), tally AS (
        INSERT INTO tally_entries (severity, state, alerts, groups_opened, largest_group)
        SELECT r.severity, r.state, count(*), 0, 0 FROM raised AS r GROUP BY r.severity, r.state
        UNION ALL
        SELECT NULL, NULL, 0, v_placed.groups_opened, v_placed.largest_group
    )
    SELECT array_agg(ROW(r.id, r.state, r.group_id, r.duplicate_of, r.created_at, t.target_tta, t.target_ttr,
                         NULL)::raised_alert ORDER BY r.id),
           array_agg(r.id ORDER BY r.id)
    INTO v_raised, v_ids
    FROM raised AS r JOIN sla_targets AS t ON t.severity = r.severity;
    v_written := set_config('app.alerts_are_placed', '', true);

    PERFORM page_for_raised_alerts(v_ids);
    RETURN QUERY
    SELECT r.alert_id, r.state, r.group_id, r.duplicate_of, r.created_at, r.target_tta, r.target_ttr, e.id
    FROM unnest(v_raised, p_reports) WITH ORDINALITY
         AS r (alert_id, state, group_id, duplicate_of, created_at, target_tta, target_ttr, escalation_id,
               device_id, severity, message, metadata, metric, source, occurred_at, escalate, key_class, position)
    LEFT JOIN escalations AS e ON e.device_id = r.device_id AND e.metric = r.metric AND e.key_class = r.key_class
        AND e.ended_at IS NULL
    ORDER BY r.position;
END $$;
