-- The life of an alert: legal steps, what a step carries along, and the SLA clocks.

-- The states an alert may go to from here. People go one step at a time; a system actor (a source that has
-- recovered) may resolve from any open state. alert_state_machine.py holds the same table for decisions
-- before the database is asked; a test compares the two.
CREATE FUNCTION allowed_alert_states(p_from alert_state, p_actor_kind alert_actor_kind) RETURNS alert_state[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_from
    WHEN 'new' THEN CASE p_actor_kind WHEN 'system' THEN '{acknowledged,resolved}' ELSE '{acknowledged}' END
    WHEN 'acknowledged' THEN CASE p_actor_kind WHEN 'system' THEN '{investigating,resolved}' ELSE '{investigating}' END
    WHEN 'investigating' THEN '{resolved}'
    ELSE '{}'
END::alert_state[];

-- Minutes between two instants, fractions kept.
CREATE FUNCTION minutes_between(p_from timestamptz, p_to timestamptz) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM p_to - p_from) / 60)::double precision;

-- Stops or keeps the clocks of alerts that enter a state. Resolving without an acknowledgement stops the
-- clock to acknowledge too; acknowledged_at stays empty then, and for an implied step, because nobody
-- acknowledged in person. Returns how many clocks it found past due that the sweep had not flagged yet.
CREATE FUNCTION stop_sla_clocks(
    p_alert_ids bigint[], p_state alert_state, p_at timestamptz, p_implied boolean,
    OUT tta_breaches bigint, OUT ttr_breaches bigint
)
LANGUAGE sql AS $$
    WITH before AS (
        SELECT s.alert_id, s.is_duplicate,
               s.actual_tta IS NULL AND NOT s.tta_breached AND p_at > s.tta_due_at AS tta_late,
               p_state = 'resolved' AND NOT s.ttr_breached AND p_at > s.ttr_due_at AS ttr_late
        FROM alert_slas AS s WHERE s.alert_id = ANY (p_alert_ids)
        FOR NO KEY UPDATE
    ), stopped AS (
        UPDATE alert_slas AS s
        SET acknowledged_at = CASE WHEN p_state = 'acknowledged' AND NOT p_implied
                                   THEN COALESCE(s.acknowledged_at, p_at) ELSE s.acknowledged_at END,
            actual_tta = COALESCE(s.actual_tta, minutes_between(s.started_at, p_at)),
            tta_breached = s.tta_breached OR b.tta_late,
            resolved_at = CASE p_state WHEN 'resolved' THEN p_at END,
            actual_ttr = CASE p_state WHEN 'resolved' THEN minutes_between(s.started_at, p_at) END,
            ttr_breached = s.ttr_breached OR b.ttr_late,
            next_due_at = CASE WHEN p_state <> 'resolved' AND NOT s.ttr_breached THEN s.ttr_due_at END
        FROM before AS b WHERE s.alert_id = b.alert_id
        RETURNING NOT b.is_duplicate AND b.tta_late AS tta_late, NOT b.is_duplicate AND b.ttr_late AS ttr_late
    )
    SELECT count(*) FILTER (WHERE tta_late), count(*) FILTER (WHERE ttr_late) FROM stopped;
$$;

-- Carries a step to the alert, its duplicates, their clocks and their group, in the lock order group, alert.
-- A step of a duplicate is a step of its original. Rows that other triggers write (first states, the steps
-- of duplicates) come from a depth greater than one and pass.
CREATE FUNCTION apply_alert_state() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_alert   record;
    v_moved   bigint[];
    v_late    record;
BEGIN
    IF pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    SELECT COALESCE(a.duplicate_of, a.id) AS id, a.group_id INTO v_alert FROM alerts AS a WHERE a.id = NEW.alert_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'alert % does not exist', NEW.alert_id USING ERRCODE = 'AA003';
    END IF;
    PERFORM 1 FROM alert_groups AS g WHERE g.id = v_alert.group_id FOR NO KEY UPDATE;
    SELECT a.id, a.group_id, a.state, a.severity INTO v_alert FROM alerts AS a WHERE a.id = v_alert.id FOR NO KEY UPDATE;
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
    IF NEW.state = 'resolved' THEN
        UPDATE alert_groups AS g SET open_alerts = g.open_alerts - cardinality(v_moved) WHERE g.id = v_alert.group_id;
        UPDATE alert_groups AS g SET status = 'closed'
        WHERE g.id = v_alert.group_id AND g.open_alerts = 0 AND g.status = 'active';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER alert_states_apply BEFORE INSERT ON alert_states
    FOR EACH ROW EXECUTE FUNCTION apply_alert_state();

-- The record stands: states move through alert_states only, and nothing that an alert points to goes away.
CREATE FUNCTION refuse_change_of_record() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'AA004';
END $$;
CREATE TRIGGER alerts_are_placed_once BEFORE UPDATE OF device_id, severity, message, metric, key_class ON alerts
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('its group, duplicates and tallies were decided by it');
CREATE TRIGGER alerts_state_moves_by_history BEFORE UPDATE OF state, group_id, duplicate_of ON alerts
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('insert the step into alert_states');
CREATE TRIGGER alert_states_are_kept BEFORE UPDATE OR DELETE ON alert_states
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('the history is never rewritten');
CREATE TRIGGER alerts_are_kept BEFORE DELETE ON alerts
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('alerts are the record');
CREATE TRIGGER alert_groups_are_kept BEFORE DELETE ON alert_groups
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('groups are part of the record');
CREATE TRIGGER alert_slas_are_kept BEFORE DELETE ON alert_slas
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record('clocks are part of the record');
CREATE TRIGGER alert_states_are_not_emptied BEFORE TRUNCATE ON alert_states
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_record('the history is never rewritten');
CREATE TRIGGER alerts_are_not_emptied BEFORE TRUNCATE ON alerts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_record('alerts are the record');
CREATE TRIGGER alert_groups_are_not_emptied BEFORE TRUNCATE ON alert_groups
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_record('groups are part of the record');
CREATE TRIGGER alert_slas_are_not_emptied BEFORE TRUNCATE ON alert_slas
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_record('clocks are part of the record');

-- Flags the clocks that have run out: at most p_limit alerts, the longest overdue first. Any number of
-- sweepers may run side by side. Duplicates are flagged but not tallied.
CREATE FUNCTION flag_sla_breaches(p_limit integer, OUT checked bigint, OUT tta_breaches bigint, OUT ttr_breaches bigint)
LANGUAGE sql AS $$
    WITH due AS (
        SELECT s.alert_id, NOT s.is_duplicate AS counts, s.severity,
               s.actual_tta IS NULL AND NOT s.tta_breached AND s.tta_due_at < app_now() AS tta_late,
               s.actual_ttr IS NULL AND NOT s.ttr_breached AND s.ttr_due_at < app_now() AS ttr_late
        FROM alert_slas AS s
        WHERE s.next_due_at < app_now()
        ORDER BY s.next_due_at
        LIMIT p_limit
        FOR NO KEY UPDATE SKIP LOCKED
    ), flagged AS (
        UPDATE alert_slas AS s
        SET tta_breached = s.tta_breached OR d.tta_late,
            ttr_breached = s.ttr_breached OR d.ttr_late,
            next_due_at = LEAST(
                CASE WHEN s.actual_tta IS NULL AND NOT (s.tta_breached OR d.tta_late) THEN s.tta_due_at END,
                CASE WHEN s.actual_ttr IS NULL AND NOT (s.ttr_breached OR d.ttr_late) THEN s.ttr_due_at END)
        FROM due AS d WHERE s.alert_id = d.alert_id
        RETURNING s.severity, d.counts AND d.tta_late AS tta_late, d.counts AND d.ttr_late AS ttr_late
    ), tallied AS (
        INSERT INTO tally_entries (severity, tta_breaches, ttr_breaches)
        SELECT severity, count(*) FILTER (WHERE tta_late), count(*) FILTER (WHERE ttr_late)
        FROM flagged WHERE tta_late OR ttr_late GROUP BY severity
    )
    SELECT count(*), count(*) FILTER (WHERE tta_late), count(*) FILTER (WHERE ttr_late) FROM flagged;
$$;

-- Folds the tally entries into the tallies and returns how many there were. Readers see one snapshot, so
-- nothing is counted twice or missed meanwhile.
CREATE FUNCTION fold_tallies() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_folded bigint;
BEGIN
    WITH taken AS (
        DELETE FROM tally_entries WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM tally_entries LIMIT 50000 FOR UPDATE SKIP LOCKED))
        RETURNING *
    ), folded AS (
        INSERT INTO tallies AS t
        SELECT severity, state, sum(alerts), sum(groups_opened), sum(groups_closed), max(largest_group),
               sum(tta_breaches), sum(ttr_breaches)
        FROM taken GROUP BY severity, state ORDER BY severity, state
        ON CONFLICT (severity, state) DO UPDATE
        SET alerts = t.alerts + EXCLUDED.alerts,
            groups_opened = t.groups_opened + EXCLUDED.groups_opened,
            groups_closed = t.groups_closed + EXCLUDED.groups_closed,
            largest_group = GREATEST(t.largest_group, EXCLUDED.largest_group),
            tta_breaches = t.tta_breaches + EXCLUDED.tta_breaches,
            ttr_breaches = t.ttr_breaches + EXCLUDED.ttr_breaches
    )
    SELECT count(*) INTO v_folded FROM taken;
    RETURN v_folded;
END $$;
