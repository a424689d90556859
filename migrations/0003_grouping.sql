-- Grouping: which group an alert joins, and of which alert it is a duplicate.

-- The share of alerts that grouping keeps from becoming news of their own, in percent; 0 without alerts.
CREATE FUNCTION noise_reduction_pct(p_groups numeric, p_alerts numeric) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (CASE WHEN p_alerts > 0 THEN 100 * (1 - p_groups / p_alerts) ELSE 0 END)::double precision;

-- Closes a group and returns whether it was active. Its open alerts stay open.
CREATE FUNCTION close_alert_group(p_group_id bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE alert_groups SET status = 'closed'
    WHERE id = p_group_id AND status = 'active';
    RETURN FOUND;
END $$;

-- Keeps closed_at and the tally true to status. The counting updates of the hot path never name status, so
-- they pay nothing for it.
CREATE FUNCTION record_group_status() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status THEN
        NEW.closed_at := CASE NEW.status WHEN 'closed' THEN app_now() END;
        INSERT INTO tally_entries (groups_closed) VALUES (CASE NEW.status WHEN 'closed' THEN 1 ELSE -1 END);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER alert_groups_record_status BEFORE UPDATE OF status ON alert_groups
    FOR EACH ROW EXECUTE FUNCTION record_group_status();

-- Brings p_arriving alerts into the active group of a key and returns the group, locked until the
-- transaction ends. It makes a group where there is none, and where the alert comes later than the window
-- after the group's last one (that group is closed). p_arriving is 1, or 0 for a caller that counts later.
--
-- An occurred_at more than five minutes ahead is refused: it would hold its group open for all that follow.
CREATE FUNCTION join_alert_group(
    p_device_id uuid, p_metric text, p_key_class text, p_severity alert_severity,
    p_occurred_at timestamptz, p_window_seconds integer, p_arriving integer,
    OUT group_id bigint, OUT occurrence_count bigint, OUT last_occurrence_at timestamptz, OUT opened boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF p_occurred_at > app_now() + interval '5 minutes' THEN
        RAISE EXCEPTION 'occurred_at lies more than 5 minutes ahead' USING ERRCODE = 'AA002';
    END IF;
    LOOP
        UPDATE alert_groups AS g
        SET occurrence_count = g.occurrence_count + p_arriving,
            open_alerts = g.open_alerts + p_arriving,
            first_occurrence_at = CASE p_arriving WHEN 0 THEN g.first_occurrence_at
                                  ELSE LEAST(g.first_occurrence_at, p_occurred_at) END,
            last_occurrence_at = CASE p_arriving WHEN 0 THEN g.last_occurrence_at
                                 ELSE GREATEST(g.last_occurrence_at, p_occurred_at) END,
            severity = CASE p_arriving WHEN 0 THEN g.severity ELSE GREATEST(g.severity, p_severity) END
        WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = p_key_class AND g.status = 'active'
            AND p_occurred_at <= g.last_occurrence_at + make_interval(secs => p_window_seconds)
        RETURNING g.id, g.occurrence_count, g.last_occurrence_at, false
        INTO group_id, occurrence_count, last_occurrence_at, opened;
        EXIT WHEN FOUND;

        INSERT INTO alert_groups AS g (device_id, metric, key_class, severity, first_occurrence_at, last_occurrence_at,
                                       occurrence_count, open_alerts)
        VALUES (p_device_id, p_metric, p_key_class, p_severity, p_occurred_at, p_occurred_at, p_arriving, p_arriving)
        ON CONFLICT (device_id, metric, key_class) WHERE status = 'active' DO NOTHING
        RETURNING g.id, g.occurrence_count, g.last_occurrence_at, true
        INTO group_id, occurrence_count, last_occurrence_at, opened;
        EXIT WHEN FOUND;

        -- The key has an active group after all: either one whose window has passed, or one that somebody
        -- made between the two statements, which the next round joins.
        UPDATE alert_groups AS g SET status = 'closed'
        WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = p_key_class AND g.status = 'active'
            AND p_occurred_at > g.last_occurrence_at + make_interval(secs => p_window_seconds);
    END LOOP;
END $$;

-- Returns the id of the active group that an alert of this key and time would join, made where there is none.
CREATE FUNCTION find_or_create_alert_group(
    p_device_id uuid, p_metric text, p_key_class text, p_severity alert_severity,
    p_occurred_at timestamptz DEFAULT NULL, p_window_seconds integer DEFAULT 300
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_joined record;
BEGIN
    SELECT * INTO v_joined FROM join_alert_group(
        p_device_id, p_metric, p_key_class, p_severity, COALESCE(p_occurred_at, app_now()), p_window_seconds, 0);
    IF v_joined.opened THEN
        INSERT INTO tally_entries (groups_opened) VALUES (1);
    END IF;
    RETURN v_joined.group_id;
END $$;

-- The figures of one group.
CREATE FUNCTION get_group_statistics(p_group_id bigint)
RETURNS TABLE (group_id bigint, group_key text, status text, occurrence_count bigint, open_alerts bigint,
               duplicate_count bigint, duration_seconds double precision, noise_reduction_pct double precision)
LANGUAGE sql STABLE AS $$
    SELECT g.id, group_key(g), g.status::text, g.occurrence_count, g.open_alerts,
           (SELECT count(*) FROM alerts AS a WHERE a.group_id = g.id AND a.duplicate_of IS NOT NULL),
           extract(epoch FROM g.last_occurrence_at - g.first_occurrence_at)::double precision,
           noise_reduction_pct(1, g.occurrence_count)
    FROM alert_groups AS g WHERE g.id = p_group_id;
$$;
