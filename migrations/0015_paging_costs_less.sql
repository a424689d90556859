-- The hot path once more. Beside less work for every alert: an alert that pages starts its escalation by one statement.

-- Originals point to nothing and are not looked up here.
DROP INDEX alerts_duplicate_of;
CREATE INDEX alerts_duplicate_of ON alerts (duplicate_of) WHERE duplicate_of IS NOT NULL;

-- Ascending, for the reason that 0013 gives.
DROP INDEX escalations_status_newest, escalations_device_newest;
CREATE INDEX escalations_status_newest ON escalations (status, started_at, id);
CREATE INDEX escalations_device_newest ON escalations (device_id, started_at, id);

-- Which policy pages for a severity, kept where raise_alert reads the targets anyway: looking through the rules of all
-- policies for every alert cost more than that reading. Policies are written once in a while, alerts all the time.
ALTER TABLE sla_targets ADD COLUMN paging_policy_id bigint;
COMMENT ON COLUMN sla_targets.paging_policy_id IS
    'the policy for the severity, as find_escalation_policy finds it; kept by triggers, and for raise_alert alone';

CREATE FUNCTION name_paging_policy() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.paging_policy_id := (SELECT p.id FROM find_escalation_policy(NEW.severity) AS p);
    RETURN NEW;
END $$;
CREATE TRIGGER sla_targets_name_paging_policy BEFORE INSERT OR UPDATE ON sla_targets
    FOR EACH ROW EXECUTE FUNCTION name_paging_policy();

-- Writers of policies take turns by the lock of all targets. They take it before they lock a policy: in the other order
-- two of them could wait for each other. Each sees then what the one before it has written.
CREATE FUNCTION await_other_policies() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM sla_targets ORDER BY severity FOR NO KEY UPDATE;
    RETURN NULL;
END $$;
CREATE TRIGGER escalation_policies_take_turns BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON escalation_policies
    FOR EACH STATEMENT EXECUTE FUNCTION await_other_policies();

CREATE FUNCTION name_paging_policies() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sla_targets SET severity = severity;
    RETURN NULL;
END $$;
CREATE TRIGGER escalation_policies_name_paging_policies AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON escalation_policies FOR EACH STATEMENT EXECUTE FUNCTION name_paging_policies();
UPDATE sla_targets SET severity = severity;

-- First states and clocks are written by who places the alerts: place_alert, raise_alert and raise_alerts. A trigger
-- with a transition table would cost every alert its making, also where there is nothing left to do.
DROP TRIGGER alerts_record ON alerts;
DROP FUNCTION record_raised_alerts;

-- The triggers of alerts and alert_states step aside while app.alerts_are_placed says 'true': raise_alert and
-- raise_alerts bring all rows themselves. Else as in 0013.
CREATE OR REPLACE FUNCTION place_alert() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_joined         record;
    v_policy         escalation_policies;
    v_window_seconds integer;
BEGIN
    IF current_setting('app.alerts_are_placed', true) = 'true' THEN
        RETURN NEW;
    END IF;
    v_window_seconds := COALESCE(NULLIF(current_setting('app.window_seconds', true), ''), '300')::integer;
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
    -- A duplicate of an acknowledged alert arrives acknowledged, so its own clock to acknowledge stands at zero.
    WITH tally AS (
        INSERT INTO tally_entries (severity, state, alerts, groups_opened, largest_group)
        VALUES (NEW.severity, NEW.state, 1, v_joined.opened::integer, v_joined.occurrence_count)
    ), states AS (
        INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
        VALUES (NEW.id, NEW.state, NEW.reported_by, 'system', NEW.created_at)
    )
    INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                            tta_due_at, ttr_due_at, next_due_at, acknowledged_at, actual_tta)
    SELECT NEW.id, NEW.severity, NEW.duplicate_of IS NOT NULL, NEW.created_at, t.target_tta, t.target_ttr,
           NEW.created_at + make_interval(mins => t.target_tta), NEW.created_at + make_interval(mins => t.target_ttr),
           NEW.created_at + make_interval(mins => CASE NEW.state WHEN 'new' THEN t.target_tta ELSE t.target_ttr END),
           CASE WHEN NEW.state <> 'new' THEN NEW.created_at END, CASE WHEN NEW.state <> 'new' THEN 0 END
    FROM sla_targets AS t WHERE t.severity = NEW.severity;
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

CREATE OR REPLACE FUNCTION apply_alert_state() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_alert   alerts;
    v_group   record;
    v_moved   bigint[];
    v_late    record;
BEGIN
    IF pg_trigger_depth() > 1 OR current_setting('app.alerts_are_placed', true) = 'true' THEN
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

-- Raises a batch as in 0011, first states and clocks included.
CREATE OR REPLACE FUNCTION raise_alerts(p_reports alert_report[], p_reported_by text DEFAULT 'system')
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
    WITH raised AS (
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
        ORDER BY n.id
        RETURNING id, severity, state, duplicate_of, created_at
    ), states AS (
        INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
        SELECT id, state, p_reported_by, 'system', created_at FROM raised
    )
    INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                            tta_due_at, ttr_due_at, next_due_at, acknowledged_at, actual_tta)
    SELECT r.id, r.severity, r.duplicate_of IS NOT NULL, r.created_at, t.target_tta, t.target_ttr,
           r.created_at + make_interval(mins => t.target_tta), r.created_at + make_interval(mins => t.target_ttr),
           r.created_at + make_interval(mins => CASE r.state WHEN 'new' THEN t.target_tta ELSE t.target_ttr END),
           CASE WHEN r.state <> 'new' THEN r.created_at END, CASE WHEN r.state <> 'new' THEN 0 END
    FROM raised AS r JOIN sla_targets AS t USING (severity);
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

-- Pages for the first alert of a group for which raise_alert could start no escalation: one runs for the key already, or
-- the policy was switched off, changed or deleted meanwhile. Returns the escalation that runs for the key now.
CREATE FUNCTION page_for_new_group(p_alert_id bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_alert      alerts;
    v_policy     escalation_policies;
    v_running_id bigint;
BEGIN
    SELECT a.* INTO v_alert FROM alerts AS a WHERE a.id = p_alert_id;
    SELECT e.id INTO v_running_id FROM escalations AS e
    WHERE e.device_id = v_alert.device_id AND e.metric = v_alert.metric AND e.key_class = v_alert.key_class
        AND e.ended_at IS NULL;
    SELECT * INTO v_policy FROM find_escalation_policy(v_alert.severity);
    IF FOUND AND v_running_id IS NULL THEN
        RETURN start_escalation(v_alert, v_policy);
    END IF;
    UPDATE alert_groups SET escalation_id = CASE WHEN v_policy.id IS NOT NULL THEN v_running_id END
    WHERE id = v_alert.group_id;
    RETURN v_running_id;
END $$;

-- Raises one alert: the hot path, one call and one commit. escalation_id is that of the escalation that runs for its key.
--
-- An alert of a key without an active group has nothing to be compared with: it opens a group, is no duplicate and is in
-- nobody's hands. It is written here. Whether its key has an active group, its INSERT finds out. Every other alert goes
-- the way that plain SQL goes, through the triggers.
--
-- A type with a name: PostgreSQL puts the columns of RETURNS TABLE together anew for every call.
CREATE TYPE raised_alert AS (
    alert_id bigint, state alert_state, group_id bigint, duplicate_of bigint, created_at timestamptz,
    target_tta integer, target_ttr integer, escalation_id bigint
);
DROP FUNCTION raise_alert;
CREATE FUNCTION raise_alert(
    p_device_id uuid, p_severity alert_severity, p_message text, p_metadata jsonb DEFAULT '{}',
    p_metric text DEFAULT '', p_source text DEFAULT '', p_occurred_at timestamptz DEFAULT NULL,
    p_escalate boolean DEFAULT true, p_reported_by text DEFAULT 'system', p_key_class text DEFAULT NULL
) RETURNS SETOF raised_alert
LANGUAGE plpgsql AS $$
DECLARE
    v_id            bigint;
    v_state         alert_state;
    v_group_id      bigint;
    v_duplicate_of  bigint;
    v_created_at    timestamptz := app_now();
    v_target_tta    integer;
    v_target_ttr    integer;
    v_escalation_id bigint;
    v_policy_id     bigint;
    v_started_id    bigint;
    v_written       text;
BEGIN
    p_occurred_at := COALESCE(p_occurred_at, v_created_at);
    p_key_class := COALESCE(p_key_class, p_severity::text);
    IF p_metric = '' AND jsonb_typeof(p_metadata -> 'metric') = 'string' THEN
        p_metric := p_metadata ->> 'metric';
    END IF;
    SELECT t.target_tta, t.target_ttr, t.paging_policy_id INTO v_target_tta, v_target_ttr, v_policy_id
    FROM sla_targets AS t WHERE t.severity = p_severity;

    -- place_alert refuses what lies too far ahead.
    IF p_occurred_at <= v_created_at + interval '5 minutes' THEN
        v_group_id := nextval('alert_groups_id_seq');
        -- may_page, written out.
        IF v_policy_id IS NOT NULL AND p_escalate AND p_occurred_at >= v_created_at - interval '1 hour' THEN
            -- Drawn beforehand, so that the new group need not be written twice.
            v_started_id := nextval('escalations_id_seq');
        END IF;
        INSERT INTO alert_groups (id, device_id, metric, key_class, severity, first_occurrence_at, last_occurrence_at,
                                  created_at, occurrence_count, open_alerts, escalation_id)
        OVERRIDING SYSTEM VALUE
        VALUES (v_group_id, p_device_id, p_metric, p_key_class, p_severity, p_occurred_at, p_occurred_at, v_created_at,
                1, 1, v_started_id)
        ON CONFLICT (device_id, metric, key_class) WHERE status = 'active' DO NOTHING;
        IF FOUND THEN
            v_id := nextval('alerts_id_seq');
            v_written := set_config('app.alerts_are_placed', 'true', true);
            WITH states AS (
                INSERT INTO alert_states (alert_id, state, changed_by, actor_kind, created_at)
                VALUES (v_id, 'new', p_reported_by, 'system', v_created_at)
            ), clocks AS (
                INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr,
                                        tta_due_at, ttr_due_at, next_due_at)
                VALUES (v_id, p_severity, false, v_created_at, v_target_tta, v_target_ttr,
                        v_created_at + make_interval(mins => v_target_tta),
                        v_created_at + make_interval(mins => v_target_ttr),
                        v_created_at + make_interval(mins => v_target_tta))
            ), tally AS (
                INSERT INTO tally_entries (severity, state, alerts, groups_opened, largest_group)
                VALUES (p_severity, 'new', 1, 1, 1)
            )
            INSERT INTO alerts (id, device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                                reported_by, key_class, group_id, created_at)
            VALUES (v_id, p_device_id, p_severity, p_message, p_metadata, p_metric, p_source, p_occurred_at, p_escalate,
                    p_reported_by, p_key_class, v_group_id, v_created_at);
            v_written := set_config('app.alerts_are_placed', '', true);
            IF v_started_id IS NULL THEN
                -- One may run for the key although there was no active group. A statement of its own: as a part of
                -- another one it would cost more, and here it is left out where it has nothing to tell.
                SELECT e.id INTO v_escalation_id FROM escalations AS e
                WHERE e.device_id = p_device_id AND e.metric = p_metric AND e.key_class = p_key_class
                    AND e.ended_at IS NULL;
            ELSE
                -- What start_escalation does, but for the group, which says so already. The policy may have been
                -- switched off, changed or deleted since.
                INSERT INTO escalations (id, alert_id, group_id, policy_id, device_id, started_at, due_at, next_pass,
                                         next_tier, severity, metric, key_class, policy_name, rules)
                OVERRIDING SYSTEM VALUE
                SELECT v_started_id, v_id, v_group_id, p.id, p_device_id, v_created_at,
                       v_created_at + make_interval(mins => (p.rules #>> '{tiers,0,delay_minutes}')::integer),
                       1, 1, p_severity, p_metric, p_key_class, p.name, p.rules
                FROM escalation_policies AS p
                WHERE p.id = v_policy_id AND p.enabled AND p.rules -> 'severity_match' ? p_severity::text
                ON CONFLICT (device_id, metric, key_class) WHERE ended_at IS NULL DO NOTHING;
                IF FOUND THEN
                    v_escalation_id := v_started_id;
                ELSE
                    v_escalation_id := page_for_new_group(v_id);
                END IF;
            END IF;
            RETURN NEXT ROW(v_id, 'new', v_group_id, NULL, v_created_at, v_target_tta, v_target_ttr,
                            v_escalation_id)::raised_alert;
            RETURN;
        END IF;
    END IF;

    INSERT INTO alerts AS a (device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                             reported_by, key_class)
    VALUES (p_device_id, p_severity, p_message, p_metadata, p_metric, p_source, p_occurred_at, p_escalate,
            p_reported_by, p_key_class)
    RETURNING a.id, a.state, a.group_id, a.duplicate_of, a.created_at
    INTO v_id, v_state, v_group_id, v_duplicate_of, v_created_at;
    SELECT s.target_tta, s.target_ttr, (
        SELECT e.id FROM escalations AS e
        WHERE e.device_id = p_device_id AND e.metric = p_metric AND e.key_class = p_key_class AND e.ended_at IS NULL)
    INTO v_target_tta, v_target_ttr, v_escalation_id
    FROM alert_slas AS s WHERE s.alert_id = v_id;
    RETURN NEXT ROW(v_id, v_state, v_group_id, v_duplicate_of, v_created_at, v_target_tta, v_target_ttr,
                    v_escalation_id)::raised_alert;
END $$;
