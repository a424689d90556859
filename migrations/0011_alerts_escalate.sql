-- Alerts start and end escalations in their own transactions: 0004 and 0005 once more, with that.

-- Every single alert that pages, whoever inserts it; else as in 0004.
CREATE OR REPLACE FUNCTION place_alert() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_joined         record;
    v_policy         escalation_policies;
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
    -- may_page and page_for_alert, written out: calls of functions would cost every alert a tenth of its time.
    IF NEW.escalate AND NEW.state = 'new' AND NEW.occurred_at >= NEW.created_at - interval '1 hour'
        AND (v_joined.opened OR awaits_page(NEW.group_id, NEW.duplicate_of IS NOT NULL)) THEN
        SELECT * INTO v_policy FROM find_escalation_policy(NEW.severity);
        IF FOUND THEN
            PERFORM start_escalation(NEW, v_policy);
        END IF;
    END IF;
    RETURN NEW;
END $$;

-- Raises one alert: the hot path, one call and one commit. escalation_id is that of the escalation that runs for
-- its key.
DROP FUNCTION raise_alert;
CREATE FUNCTION raise_alert(
    p_device_id uuid, p_severity alert_severity, p_message text, p_metadata jsonb DEFAULT '{}',
    p_metric text DEFAULT '', p_source text DEFAULT '', p_occurred_at timestamptz DEFAULT NULL,
    p_escalate boolean DEFAULT true, p_reported_by text DEFAULT 'system', p_key_class text DEFAULT NULL
) RETURNS TABLE (alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint,
                 created_at timestamptz, target_tta integer, target_ttr integer, escalation_id bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_metric    text;
    v_key_class text;
BEGIN
    INSERT INTO alerts AS a (device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                             reported_by, key_class)
    VALUES (p_device_id, p_severity, p_message, p_metadata, p_metric, p_source,
            COALESCE(p_occurred_at, app_now()), p_escalate, p_reported_by, p_key_class)
    RETURNING a.id, a.state, a.group_id, a.duplicate_of, a.created_at, a.metric, a.key_class
    INTO alert_id, state, group_id, duplicate_of, created_at, v_metric, v_key_class;
    SELECT s.target_tta, s.target_ttr, (
        SELECT e.id FROM escalations AS e
        WHERE e.device_id = p_device_id AND e.metric = v_metric AND e.key_class = v_key_class AND e.ended_at IS NULL)
    INTO target_tta, target_ttr, escalation_id
    FROM alert_slas AS s WHERE s.alert_id = raise_alert.alert_id;
    RETURN NEXT;
END $$;

-- Raises a batch, all or nothing, as if its reports had come one by one, in set-based passes: groups, alerts, counts,
-- pages. Returns one row per report, in order.
DROP FUNCTION raise_alerts;
CREATE FUNCTION raise_alerts(p_reports alert_report[], p_reported_by text DEFAULT 'system')
RETURNS TABLE (alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint,
               created_at timestamptz, target_tta integer, target_ttr integer, escalation_id bigint)
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
    PERFORM page_for_raised_alerts(v_ids);
    RETURN QUERY
    SELECT a.id, a.state, a.group_id, a.duplicate_of, a.created_at, s.target_tta, s.target_ttr, e.id
    FROM unnest(v_ids) WITH ORDINALITY AS i (id, position)
    JOIN alerts AS a ON a.id = i.id JOIN alert_slas AS s ON s.alert_id = i.id
    LEFT JOIN escalations AS e ON e.device_id = a.device_id AND e.metric = a.metric AND e.key_class = a.key_class
        AND e.ended_at IS NULL
    ORDER BY i.position;
END $$;

-- Pages for the first alert of each group of a batch that may page, keys in sorted order as in place_reports.
CREATE FUNCTION page_for_raised_alerts(p_ids bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_alert alerts;
BEGIN
    IF NOT EXISTS (SELECT FROM escalation_policies WHERE enabled) THEN
        RETURN;
    END IF;
    FOR v_alert IN
        SELECT DISTINCT ON (a.device_id, a.metric, a.key_class, a.group_id) a.*
        FROM alerts AS a
        WHERE a.id = ANY (p_ids) AND may_page(a) AND awaits_page(a.group_id, a.duplicate_of IS NOT NULL)
        ORDER BY a.device_id, a.metric, a.key_class, a.group_id, a.id
    LOOP
        PERFORM page_for_alert(v_alert);
    END LOOP;
END $$;

-- As in 0005; a step also ends the escalation of the alert's key, and a resolution pages for what it leaves behind.
CREATE OR REPLACE FUNCTION apply_alert_state() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_alert   alerts;
    v_group   record;
    v_moved   bigint[];
    v_late    record;
BEGIN
    IF pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    SELECT COALESCE(a.duplicate_of, a.id) AS id, a.group_id INTO v_group FROM alerts AS a WHERE a.id = NEW.alert_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'alert % does not exist', NEW.alert_id USING ERRCODE = 'AA003';
    END IF;
    PERFORM 1 FROM alert_groups AS g WHERE g.id = v_group.group_id FOR NO KEY UPDATE;
    SELECT a.* INTO v_alert FROM alerts AS a WHERE a.id = v_group.id FOR NO KEY UPDATE;
    IF NOT NEW.state = ANY (allowed_alert_states(v_alert.state, NEW.actor_kind)) THEN
        RAISE EXCEPTION 'an alert in state % cannot become %', v_alert.state, NEW.state USING
            ERRCODE = 'AA001',
            DETAIL = json_build_object('current_state', v_alert.state,
                                       'allowed', allowed_alert_states(v_alert.state, NEW.actor_kind));
    END IF;
    NEW.alert_id := v_alert.id;
    NEW.previous_state := v_alert.state;
    -- Numbered and dated under the lock: a step that waited for another one began before it and comes after it.
    NEW.id := nextval(pg_get_serial_sequence('alert_states', 'id'));
    NEW.created_at := GREATEST(NEW.created_at, (
        SELECT max(s.created_at) FROM alert_states AS s WHERE s.alert_id = v_alert.id));

    WITH moved AS (
        UPDATE alerts AS a
        SET state = NEW.state,
            resolution = COALESCE(NEW.resolution, a.resolution),
            assigned_to_user_id = COALESCE(NEW.assigned_to_user_id, a.assigned_to_user_id)
        WHERE a.id = v_alert.id OR (a.duplicate_of = v_alert.id AND a.state <> 'resolved')
        RETURNING a.id, a.severity, a.created_at
    ), tallied AS (
        INSERT INTO tally_entries (severity, state, alerts)
        SELECT m.severity, side.state, side.sign * count(*)
        FROM moved AS m CROSS JOIN (VALUES (v_alert.state, -1), (NEW.state, 1)) AS side (state, sign)
        GROUP BY m.severity, side.state, side.sign
    )
    SELECT array_agg(id), GREATEST(NEW.created_at, max(created_at)) INTO v_moved, NEW.created_at FROM moved;
    IF cardinality(v_moved) > 1 THEN
        INSERT INTO alert_states (alert_id, previous_state, state, changed_by, actor_kind, implied, notes,
                                  resolution, assigned_to_user_id, created_at)
        SELECT id, v_alert.state, NEW.state, NEW.changed_by, NEW.actor_kind, NEW.implied, NEW.notes,
               NEW.resolution, NEW.assigned_to_user_id, NEW.created_at
        FROM unnest(v_moved) AS id WHERE id <> v_alert.id;
    END IF;

    SELECT * INTO v_late FROM stop_sla_clocks(v_moved, NEW.state, NEW.created_at, NEW.implied);
    IF v_late.tta_breaches + v_late.ttr_breaches > 0 THEN
        INSERT INTO tally_entries (severity, tta_breaches, ttr_breaches)
        VALUES (v_alert.severity, v_late.tta_breaches, v_late.ttr_breaches);
    END IF;

    UPDATE alert_groups AS g
    SET open_alerts = g.open_alerts - CASE NEW.state WHEN 'resolved' THEN cardinality(v_moved) ELSE 0 END,
        handled_alerts = g.handled_alerts + (NEW.state <> 'resolved')::integer - (v_alert.state <> 'new')::integer
    WHERE g.id = v_alert.group_id
    RETURNING g.handled_alerts INTO v_group;
    PERFORM cancel_escalation(v_alert.device_id, v_alert.metric, v_alert.key_class, NEW.changed_by);
    IF NEW.state = 'resolved' THEN
        UPDATE alert_groups AS g SET status = 'closed'
        WHERE g.id = v_alert.group_id AND g.open_alerts = 0 AND g.status = 'active';
        IF v_group.handled_alerts = 0 THEN
            PERFORM page_for_left_behind(v_alert.group_id, v_alert.device_id, v_alert.metric, v_alert.key_class);
        END IF;
    END IF;
    RETURN NEW;
END $$;
