-- The hot path in fewer statements: the commonest news, an alert of a key that has no active group, is written out by
-- raise_alert itself. Most of what an alert costs is not its rows but the statements, function calls and transition
-- tables around them.

-- Ascending: a new entry goes to the right end of its stretch, where PostgreSQL finds the page without a descent and
-- splits it so that the left one stays full; descending ones split in halves. Lists read them backwards.
DROP INDEX alerts_newest, alerts_severity_state_newest, alerts_device_newest, alerts_metric_newest, alerts_group_newest,
           alert_groups_status_newest, alert_groups_device_newest;
CREATE INDEX alerts_newest ON alerts (created_at, id);
CREATE INDEX alerts_severity_state_newest ON alerts (severity, state, created_at, id);
CREATE INDEX alerts_device_newest ON alerts (device_id, created_at, id);
CREATE INDEX alerts_metric_newest ON alerts (metric, created_at, id);
CREATE INDEX alerts_group_newest ON alerts (group_id, created_at, id);
CREATE INDEX alert_groups_status_newest ON alert_groups (status, first_occurrence_at, id);
CREATE INDEX alert_groups_device_newest ON alert_groups (device_id, first_occurrence_at, id);

-- Three triggers step aside for raise_alert, which says so by app.alerts_are_placed = 'recorded' for as long as it writes:
-- it brings group, first state, SLA clocks and tally itself. 'true' is said by raise_alerts, which leaves states and
-- clocks to the trigger. Else as in 0004 and 0011.
CREATE OR REPLACE FUNCTION place_alert() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_joined         record;
    v_policy         escalation_policies;
    v_window_seconds integer := COALESCE(NULLIF(current_setting('app.window_seconds', true), ''), '300')::integer;
BEGIN
    IF current_setting('app.alerts_are_placed', true) IN ('true', 'recorded') THEN
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

CREATE OR REPLACE FUNCTION record_raised_alerts() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('app.alerts_are_placed', true) = 'recorded' THEN
        RETURN NULL;
    END IF;
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

CREATE OR REPLACE FUNCTION apply_alert_state() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_alert   alerts;
    v_group   record;
    v_moved   bigint[];
    v_late    record;
BEGIN
    IF pg_trigger_depth() > 1 OR current_setting('app.alerts_are_placed', true) = 'recorded' THEN
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

-- Raises one alert: the hot path, one call and one commit. escalation_id is that of the escalation that runs for its key.
--
-- An alert of a key without an active group has nothing to be compared with: it opens a group, is no duplicate and is in
-- nobody's hands. It is written here, in two statements. Every other one, and one that finds a group after all because
-- somebody else opened it meanwhile, goes the way that plain SQL goes, through the triggers.
CREATE OR REPLACE FUNCTION raise_alert(
    p_device_id uuid, p_severity alert_severity, p_message text, p_metadata jsonb DEFAULT '{}',
    p_metric text DEFAULT '', p_source text DEFAULT '', p_occurred_at timestamptz DEFAULT NULL,
    p_escalate boolean DEFAULT true, p_reported_by text DEFAULT 'system', p_key_class text DEFAULT NULL
) RETURNS TABLE (alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint,
                 created_at timestamptz, target_tta integer, target_ttr integer, escalation_id bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_pages   boolean;
    v_alert   alerts;
    v_policy  escalation_policies;
    v_written text;
BEGIN
    created_at := app_now();
    p_occurred_at := COALESCE(p_occurred_at, created_at);
    p_key_class := COALESCE(p_key_class, p_severity::text);
    IF p_metric = '' AND jsonb_typeof(p_metadata -> 'metric') = 'string' THEN
        p_metric := p_metadata ->> 'metric';
    END IF;
    SELECT t.target_tta, t.target_ttr,
           EXISTS (SELECT FROM escalation_policies AS p WHERE p.enabled AND p.rules -> 'severity_match' ? p_severity::text),
           (SELECT g.id FROM alert_groups AS g
            WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = p_key_class AND g.status = 'active'),
           (SELECT e.id FROM escalations AS e
            WHERE e.device_id = p_device_id AND e.metric = p_metric AND e.key_class = p_key_class AND e.ended_at IS NULL)
    INTO target_tta, target_ttr, v_pages, group_id, escalation_id
    FROM sla_targets AS t WHERE t.severity = p_severity;

    -- place_alert refuses what lies too far ahead.
    IF group_id IS NULL AND p_occurred_at <= created_at + interval '5 minutes' THEN
        group_id := nextval('alert_groups_id_seq');
        INSERT INTO alert_groups (id, device_id, metric, key_class, severity, first_occurrence_at, last_occurrence_at,
                                  created_at, occurrence_count, open_alerts)
        OVERRIDING SYSTEM VALUE
        VALUES (group_id, p_device_id, p_metric, p_key_class, p_severity, p_occurred_at, p_occurred_at, created_at, 1, 1)
        ON CONFLICT (device_id, metric, key_class) WHERE status = 'active' DO NOTHING;
        IF FOUND THEN
            alert_id := nextval('alerts_id_seq');
            state := 'new';
            v_written := set_config('app.alerts_are_placed', 'recorded', true);
            WITH states AS (
                INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
                VALUES (alert_id, state, p_reported_by, 'system', created_at)
            ), clocks AS (
                INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                                        tta_due_at, ttr_due_at, next_due_at)
                VALUES (alert_id, p_severity, false, created_at, target_tta, target_ttr,
                        created_at + make_interval(mins => target_tta), created_at + make_interval(mins => target_ttr),
                        created_at + make_interval(mins => target_tta))
            ), tally AS (
                INSERT INTO tally_entries (severity, state, alerts, groups_opened, largest_group)
                VALUES (p_severity, state, 1, 1, 1)
            )
            INSERT INTO alerts (id, device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                                reported_by, key_class, group_id, created_at)
            VALUES (alert_id, p_device_id, p_severity, p_message, p_metadata, p_metric, p_source, p_occurred_at, p_escalate,
                    p_reported_by, p_key_class, group_id, created_at);
            v_written := set_config('app.alerts_are_placed', '', true);
            IF v_pages THEN
                SELECT a.* INTO v_alert FROM alerts AS a WHERE a.id = alert_id AND may_page(a);
                IF FOUND THEN
                    -- Looked for anew: it may have been switched off or deleted since.
                    SELECT * INTO v_policy FROM find_escalation_policy(p_severity);
                    IF FOUND THEN
                        escalation_id := start_escalation(v_alert, v_policy);
                    END IF;
                END IF;
            END IF;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    INSERT INTO alerts AS a (device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                             reported_by, key_class)
    VALUES (p_device_id, p_severity, p_message, p_metadata, p_metric, p_source, p_occurred_at, p_escalate,
            p_reported_by, p_key_class)
    RETURNING a.id, a.state, a.group_id, a.duplicate_of, a.created_at
    INTO alert_id, state, group_id, duplicate_of, created_at;
    SELECT s.target_tta, s.target_ttr, (
        SELECT e.id FROM escalations AS e
        WHERE e.device_id = p_device_id AND e.metric = p_metric AND e.key_class = p_key_class AND e.ended_at IS NULL)
    INTO target_tta, target_ttr, escalation_id
    FROM alert_slas AS s WHERE s.alert_id = raise_alert.alert_id;
    RETURN NEXT;
END $$;
