CREATE TYPE public.alert_actor_kind AS ENUM (
    'user',
    'system'
);
CREATE TYPE public.alert_group_status AS ENUM (
    'active',
    'closed'
);
CREATE DOMAIN public.alert_message AS text
	CONSTRAINT alert_message_length CHECK (((char_length(VALUE) >= 1) AND (char_length(VALUE) <= 2000)));
CREATE DOMAIN public.alert_metadata AS jsonb
	CONSTRAINT alert_metadata_type CHECK ((jsonb_typeof(VALUE) = 'object'::text));
CREATE TYPE public.alert_severity AS ENUM (
    'info',
    'low',
    'medium',
    'high',
    'critical'
);
CREATE TYPE public.alert_report AS (
	device_id uuid,
	severity public.alert_severity,
	message text,
	metadata jsonb,
	metric text,
	source text,
	occurred_at timestamp with time zone,
	escalate boolean,
	key_class text
);
CREATE TYPE public.alert_resolution AS ENUM (
    'fixed',
    'no_action',
    'false_positive',
    'duplicate'
);
CREATE TYPE public.alert_state AS ENUM (
    'new',
    'acknowledged',
    'investigating',
    'resolved'
);
CREATE TYPE public.escalation_status AS ENUM (
    'pending',
    'in_progress',
    'completed',
    'cancelled'
);
CREATE TYPE public.notification_status AS ENUM (
    'pending',
    'sending',
    'sent',
    'delivered',
    'failed',
    'rate_limited',
    'cancelled'
);
CREATE DOMAIN public.occurrence_total AS bigint
	CONSTRAINT occurrence_total_not_negative CHECK ((VALUE >= 0));
CREATE TYPE public.raised_alert AS (
	alert_id bigint,
	state public.alert_state,
	group_id bigint,
	duplicate_of bigint,
	created_at timestamp with time zone,
	target_tta integer,
	target_ttr integer,
	escalation_id bigint
);
CREATE FUNCTION public.allowed_alert_states(p_from public.alert_state, p_actor_kind public.alert_actor_kind) RETURNS public.alert_state[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (CASE p_from WHEN 'new'::public.alert_state THEN CASE p_actor_kind WHEN 'system'::public.alert_actor_kind THEN '{acknowledged,resolved}'::text ELSE '{acknowledged}'::text END WHEN 'acknowledged'::public.alert_state THEN CASE p_actor_kind WHEN 'system'::public.alert_actor_kind THEN '{investigating,resolved}'::text ELSE '{investigating}'::text END WHEN 'investigating'::public.alert_state THEN '{resolved}'::text ELSE '{}'::text END)::public.alert_state[];
CREATE FUNCTION public.app_clock() RETURNS timestamp with time zone
    LANGUAGE sql
    RETURN COALESCE((NULLIF(current_setting('app.now'::text, true), ''::text))::timestamp with time zone, clock_timestamp());
CREATE FUNCTION public.app_now() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN COALESCE((NULLIF(current_setting('app.now'::text, true), ''::text))::timestamp with time zone, now());
CREATE FUNCTION public.append_reading(p_device_id uuid, p_metric text, p_read_at timestamp with time zone, p_value double precision, p_activation bigint, p_number bigint, p_since timestamp with time zone, p_most_missed bigint, OUT number bigint, OUT stored_at timestamp with time zone, OUT at_seconds double precision, OUT missed_seconds double precision[], OUT missed_values double precision[]) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.append_readings(p_device_ids uuid[], p_metrics text[], p_activations bigint[], p_numbers bigint[], p_sinces timestamp with time zone[], p_most_missed bigint, p_places integer[], p_read_ats timestamp with time zone[], p_values double precision[]) RETURNS TABLE(place integer, number_before bigint, stored_at timestamp with time zone, now_seconds double precision, missed_seconds double precision[], missed_values double precision[])
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.apply_alert_state() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.are_escalation_rules(p_rules jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $_$
    SELECT CASE WHEN jsonb_typeof(p_rules -> 'tiers') = 'array' THEN
        jsonb_typeof(p_rules -> 'severity_match') = 'array'
        AND (p_rules -> 'repeat' IS NULL OR (p_rules -> 'repeat')::text ~ '^[0-9]{1,3}$')
        AND (SELECT COALESCE(bool_and(COALESCE(
                 (t -> 'delay_minutes')::text ~ '^[0-9]{1,5}$'
                 AND jsonb_typeof(t -> 'channels') = 'array' AND jsonb_typeof(t -> 'recipients') = 'array', false)), false)
             FROM jsonb_array_elements(p_rules -> 'tiers') AS t)
    ELSE false END;
$_$;
CREATE FUNCTION public.await_other_policies() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM 1 FROM sla_targets ORDER BY severity FOR NO KEY UPDATE;
    RETURN NULL;
END $$;
CREATE FUNCTION public.awaits_page(p_group_id bigint, p_is_duplicate boolean) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
    SELECT g.handled_alerts = 0 AND (e.id IS NULL OR e.ended_at IS NOT NULL)
        AND (NOT p_is_duplicate OR COALESCE(
            e.status = 'completed' AND e.ended_at <= app_now() - make_interval(
                mins => COALESCE(NULLIF(current_setting('app.renotify_minutes', true), ''), '60')::integer), false))
    FROM alert_groups AS g LEFT JOIN escalations AS e ON e.id = g.escalation_id
    WHERE g.id = p_group_id;
$$;
CREATE FUNCTION public.minutes_between(p_from timestamp with time zone, p_to timestamp with time zone) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((EXTRACT(epoch FROM (p_to - p_from)) / (60)::numeric))::double precision;
CREATE TABLE public.alert_slas (
    alert_id bigint NOT NULL,
    severity public.alert_severity NOT NULL,
    is_duplicate boolean NOT NULL,
    tta_breached boolean DEFAULT false NOT NULL,
    ttr_breached boolean DEFAULT false NOT NULL,
    started_at timestamp with time zone NOT NULL,
    target_tta integer NOT NULL,
    target_ttr integer NOT NULL,
    tta_due_at timestamp with time zone NOT NULL,
    ttr_due_at timestamp with time zone NOT NULL,
    acknowledged_at timestamp with time zone,
    resolved_at timestamp with time zone,
    actual_tta double precision,
    actual_ttr double precision,
    next_due_at timestamp with time zone
)
WITH (fillfactor='85');
COMMENT ON COLUMN public.alert_slas.acknowledged_at IS 'when a person acknowledged; NULL where nobody did in person';
COMMENT ON COLUMN public.alert_slas.actual_tta IS 'minutes until the acknowledgement, or the resolution that came without one';
COMMENT ON COLUMN public.alert_slas.actual_ttr IS 'minutes until the resolution';
COMMENT ON COLUMN public.alert_slas.next_due_at IS 'the earliest end of a running clock that is not yet flagged: one index serves the sweep for both clocks';
CREATE FUNCTION public.calculate_tta(p_alert_id bigint) RETURNS double precision
    LANGUAGE sql STABLE
    RETURN (SELECT COALESCE(s.actual_tta, public.minutes_between(s.started_at, public.app_now())) AS "coalesce" FROM public.alert_slas s WHERE (s.alert_id = calculate_tta.p_alert_id));
CREATE FUNCTION public.calculate_ttr(p_alert_id bigint) RETURNS double precision
    LANGUAGE sql STABLE
    RETURN (SELECT COALESCE(s.actual_ttr, public.minutes_between(s.started_at, public.app_now())) AS "coalesce" FROM public.alert_slas s WHERE (s.alert_id = calculate_ttr.p_alert_id));
CREATE FUNCTION public.cancel_escalation(p_device_id uuid, p_metric text, p_key_class text, p_by text) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_id bigint;
BEGIN
    UPDATE escalations SET status = 'cancelled', ended_at = app_now(), due_at = NULL, ended_by = p_by
    WHERE device_id = p_device_id AND metric = p_metric AND key_class = p_key_class AND ended_at IS NULL
    RETURNING id INTO v_id;
    IF FOUND THEN
        UPDATE notifications SET status = 'cancelled', due_at = NULL
        WHERE escalation_id = v_id AND status = 'pending';
    END IF;
END $$;
CREATE FUNCTION public.close_alert_group(p_group_id bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE alert_groups SET status = 'closed'
    WHERE id = p_group_id AND status = 'active';
    RETURN FOUND;
END $$;
CREATE FUNCTION public.drop_telemetry_partitions(p_before date) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    AS $$
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
CREATE FUNCTION public.ensure_telemetry_partitions(p_first date, p_days integer) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout TO '1s'
    AS $$
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
CREATE FUNCTION public.fail_notification(p_id bigint, p_attempt integer, p_status public.notification_status, p_error text, p_is_setting_fault boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    n notifications;
BEGIN
    SELECT * INTO n FROM notifications WHERE id = p_id;
    PERFORM 1 FROM escalations WHERE id = n.escalation_id FOR NO KEY UPDATE;
    UPDATE notifications
    SET status = p_status, error = p_error, due_at = NULL, is_setting_fault = p_is_setting_fault
    WHERE id = p_id AND attempts = p_attempt AND status = 'sending';
    IF FOUND THEN
        PERFORM hasten_escalation(n.escalation_id, n.pass, n.tier);
        RETURN true;
    END IF;
    RETURN false;
END $$;
CREATE TABLE public.alerts (
    id bigint NOT NULL,
    device_id uuid NOT NULL,
    group_id bigint NOT NULL,
    duplicate_of bigint,
    assigned_to_user_id bigint,
    occurred_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    severity public.alert_severity NOT NULL,
    state public.alert_state DEFAULT 'new'::public.alert_state NOT NULL,
    resolution public.alert_resolution,
    escalate boolean DEFAULT true NOT NULL,
    message public.alert_message NOT NULL,
    metric text DEFAULT ''::text NOT NULL,
    key_class text NOT NULL,
    source text DEFAULT ''::text NOT NULL,
    reported_by text DEFAULT 'system'::text NOT NULL,
    metadata public.alert_metadata DEFAULT '{}'::jsonb NOT NULL
);
COMMENT ON COLUMN public.alerts.assigned_to_user_id IS 'kept for the record when the user is deleted, hence no foreign key';
COMMENT ON COLUMN public.alerts.state IS 'the current state, kept by the triggers of alert_states';
CREATE FUNCTION public.find_device_name(p_alert public.alerts) RETURNS text
    LANGUAGE sql STABLE
    RETURN COALESCE((((p_alert).metadata)::jsonb ->> 'device_name'::text), (SELECT ((recent.metadata)::jsonb ->> 'device_name'::text) FROM (SELECT a.metadata, a.created_at, a.id FROM public.alerts a WHERE (a.device_id = (find_device_name.p_alert).device_id) ORDER BY a.created_at DESC, a.id DESC LIMIT 50) recent WHERE (((recent.metadata)::jsonb ->> 'device_name'::text) IS NOT NULL) ORDER BY recent.created_at DESC, recent.id DESC LIMIT 1));
CREATE TABLE public.escalation_policies (
    id bigint NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    rules jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    updated_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    CONSTRAINT escalation_policies_rules_shape CHECK (public.are_escalation_rules(rules))
);
COMMENT ON COLUMN public.escalation_policies.rules IS 'severity_match, repeat and tiers, as the API takes them';
CREATE FUNCTION public.find_escalation_policy(p_severity public.alert_severity) RETURNS SETOF public.escalation_policies
    LANGUAGE sql STABLE
    AS $$
    SELECT * FROM escalation_policies
    WHERE enabled AND rules -> 'severity_match' ? p_severity::text
    ORDER BY priority DESC, id
    LIMIT 1;
$$;
CREATE FUNCTION public.find_or_create_alert_group(p_device_id uuid, p_metric text, p_key_class text, p_severity public.alert_severity, p_occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_window_seconds integer DEFAULT 300) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.flag_sla_breaches(p_limit integer, OUT checked bigint, OUT tta_breaches bigint, OUT ttr_breaches bigint) RETURNS record
    LANGUAGE sql
    AS $$
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
CREATE FUNCTION public.fold_tallies() RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.get_current_alert_state(p_alert_id bigint) RETURNS TABLE(id bigint, alert_id bigint, state public.alert_state, previous_state public.alert_state, changed_by text, notes text, created_at timestamp with time zone)
    LANGUAGE sql STABLE
    AS $$
    SELECT s.id, s.alert_id, s.state, s.previous_state, s.changed_by, s.notes, s.created_at
    FROM alert_states AS s WHERE s.alert_id = p_alert_id ORDER BY s.id DESC LIMIT 1;
$$;
CREATE FUNCTION public.get_group_statistics(p_group_id bigint) RETURNS TABLE(group_id bigint, group_key text, status text, occurrence_count bigint, open_alerts bigint, duplicate_count bigint, duration_seconds double precision, noise_reduction_pct double precision)
    LANGUAGE sql STABLE
    AS $$
    SELECT g.id, group_key(g), g.status::text, g.occurrence_count, g.open_alerts,
           (SELECT count(*) FROM alerts AS a WHERE a.group_id = g.id AND a.duplicate_of IS NOT NULL),
           extract(epoch FROM g.last_occurrence_at - g.first_occurrence_at)::double precision,
           noise_reduction_pct(1, g.occurrence_count)
    FROM alert_groups AS g WHERE g.id = p_group_id;
$$;
CREATE TABLE public.alert_groups (
    id bigint NOT NULL,
    device_id uuid NOT NULL,
    occurrence_count public.occurrence_total DEFAULT 0 NOT NULL,
    open_alerts public.occurrence_total DEFAULT 0 NOT NULL,
    first_occurrence_at timestamp with time zone NOT NULL,
    last_occurrence_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    closed_at timestamp with time zone,
    severity public.alert_severity NOT NULL,
    status public.alert_group_status DEFAULT 'active'::public.alert_group_status NOT NULL,
    metric text DEFAULT ''::text NOT NULL,
    key_class text NOT NULL,
    handled_alerts public.occurrence_total DEFAULT 0 NOT NULL,
    escalation_id bigint
)
WITH (fillfactor='70');
COMMENT ON COLUMN public.alert_groups.severity IS 'the highest of its alerts';
COMMENT ON COLUMN public.alert_groups.key_class IS 'the third part of the key: the severity of its alerts, or ml';
COMMENT ON COLUMN public.alert_groups.handled_alerts IS 'its originals that are acknowledged or investigating';
COMMENT ON COLUMN public.alert_groups.escalation_id IS 'the last escalation of its key that spoke for this group';
CREATE FUNCTION public.group_key(p_group public.alert_groups) RETURNS text
    LANGUAGE sql STABLE
    RETURN ((((((p_group).device_id)::text || ':'::text) || (p_group).metric) || ':'::text) || (p_group).key_class);
CREATE FUNCTION public.hasten_escalation(p_escalation_id bigint, p_pass integer, p_tier integer) RETURNS void
    LANGUAGE sql
    AS $$
    UPDATE escalations AS e SET due_at = LEAST(e.due_at, app_now())
    WHERE e.id = p_escalation_id AND e.ended_at IS NULL AND e.next_tier IS NOT NULL
        AND e.pass = p_pass AND e.current_tier = p_tier
        AND NOT EXISTS (
            SELECT FROM notifications AS n
            WHERE n.escalation_id = e.id AND n.pass = p_pass AND n.tier = p_tier
                AND n.status NOT IN ('failed', 'rate_limited', 'cancelled'));
$$;
CREATE FUNCTION public.is_alert_acknowledged(p_alert_id bigint) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN (SELECT (a.state <> 'new'::public.alert_state) FROM public.alerts a WHERE (a.id = is_alert_acknowledged.p_alert_id));
CREATE FUNCTION public.join_alert_group(p_device_id uuid, p_metric text, p_key_class text, p_severity public.alert_severity, p_occurred_at timestamp with time zone, p_window_seconds integer, p_arriving integer, OUT group_id bigint, OUT occurrence_count bigint, OUT last_occurrence_at timestamp with time zone, OUT opened boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.list_readings(p_series_id bigint, p_after bigint, p_upto bigint, p_since timestamp with time zone, OUT seconds double precision[], OUT readings double precision[]) RETURNS record
    LANGUAGE sql STABLE
    AS $$
    SELECT array_agg(extract(epoch FROM t.read_at)::double precision ORDER BY t.number), array_agg(t.value ORDER BY t.number)
    FROM telemetry AS t
    WHERE t.series_id = p_series_id AND t.number > p_after AND t.number <= p_upto
        AND t.stored_at >= p_since - interval '1 hour';
$$;
CREATE FUNCTION public.may_page(p_alert public.alerts) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN ((p_alert).escalate AND ((p_alert).state = 'new'::public.alert_state) AND ((p_alert).occurred_at >= ((p_alert).created_at - '01:00:00'::interval)));
CREATE FUNCTION public.ml_model_record(p_model_id bigint, p_device_id uuid, p_metric text, OUT alerts_raised bigint, OUT alerts_resolved bigint, OUT false_positives bigint, OUT measured_precision double precision, OUT promised_precision double precision) RETURNS record
    LANGUAGE sql STABLE
    AS $$
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
CREATE FUNCTION public.name_paging_policies() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE sla_targets SET severity = severity;
    RETURN NULL;
END $$;
CREATE FUNCTION public.name_paging_policy() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.paging_policy_id := (SELECT p.id FROM find_escalation_policy(NEW.severity) AS p);
    RETURN NEW;
END $$;
CREATE FUNCTION public.noise_reduction_pct(p_groups numeric, p_alerts numeric) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (CASE WHEN (p_alerts > (0)::numeric) THEN ((100)::numeric * ((1)::numeric - (p_groups / p_alerts))) ELSE (0)::numeric END)::double precision;
CREATE FUNCTION public.page_for_alert(p_alert public.alerts) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_policy escalation_policies;
BEGIN
    SELECT * INTO v_policy FROM find_escalation_policy(p_alert.severity);
    IF FOUND THEN
        PERFORM start_escalation(p_alert, v_policy);
    END IF;
END $$;
CREATE FUNCTION public.page_for_left_behind(p_group_id bigint, p_device_id uuid, p_metric text, p_key_class text) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_alert alerts;
BEGIN
    SELECT a.* INTO v_alert
    FROM alert_groups AS g JOIN alerts AS a ON a.group_id = g.id
    WHERE g.id = p_group_id AND g.open_alerts > 0 AND g.handled_alerts = 0 AND a.duplicate_of IS NULL AND may_page(a)
    ORDER BY a.severity DESC, a.id
    LIMIT 1;
    IF NOT FOUND THEN
        SELECT a.* INTO v_alert
        FROM alert_groups AS g
        JOIN escalations AS e ON e.id = g.escalation_id AND e.status = 'cancelled'
        JOIN alerts AS a ON a.group_id = g.id
        WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = p_key_class
            AND g.first_occurrence_at > app_now() - interval '1 day'
            AND g.id <> p_group_id AND g.open_alerts > 0 AND g.handled_alerts = 0
            AND a.duplicate_of IS NULL AND may_page(a)
        ORDER BY a.severity DESC, a.id
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM 1 FROM alert_groups AS g WHERE g.id = v_alert.group_id AND g.handled_alerts = 0 FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM page_for_alert(v_alert);
    END IF;
END $$;
CREATE FUNCTION public.page_for_new_group(p_alert_id bigint) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.page_for_raised_alerts(p_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.place_alert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.place_reports(p_reports public.alert_report[], p_window_seconds integer, OUT group_ids bigint[], OUT groups_opened bigint, OUT largest_group bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.raise_alert(p_device_id uuid, p_severity public.alert_severity, p_message text, p_metadata jsonb DEFAULT '{}'::jsonb, p_metric text DEFAULT ''::text, p_source text DEFAULT ''::text, p_occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_escalate boolean DEFAULT true, p_reported_by text DEFAULT 'system'::text, p_key_class text DEFAULT NULL::text) RETURNS SETOF public.raised_alert
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.raise_alerts(p_reports public.alert_report[], p_reported_by text DEFAULT 'system'::text) RETURNS SETOF public.raised_alert
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.record_group_status() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NEW.status <> OLD.status THEN
        NEW.closed_at := CASE NEW.status WHEN 'closed' THEN app_now() END;
        INSERT INTO tally_entries (groups_closed) VALUES (CASE NEW.status WHEN 'closed' THEN 1 ELSE -1 END);
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION public.record_ml_false_positive() RETURNS trigger
    LANGUAGE plpgsql
    AS $_$
BEGIN
    IF NEW.key_class = 'ml' AND NEW.metadata ->> 'model_id' ~ '^[1-9][0-9]{0,17}$' THEN
        INSERT INTO ml_false_positives (alert_id, model_id) VALUES (NEW.id, (NEW.metadata ->> 'model_id')::bigint)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $_$;
CREATE FUNCTION public.refuse_change_of_record() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'AA004';
END $$;
CREATE FUNCTION public.retry_notification(p_id bigint, p_attempt integer, p_due_at timestamp with time zone, p_error text, p_may_have_gone_out boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_status escalation_status;
BEGIN
    SELECT e.status INTO v_status FROM escalations AS e
    WHERE e.id = (SELECT escalation_id FROM notifications WHERE id = p_id) FOR SHARE;
    UPDATE notifications
    SET status = CASE v_status WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END::notification_status,
        due_at = CASE v_status WHEN 'cancelled' THEN NULL ELSE p_due_at END,
        error = p_error, may_have_gone_out = may_have_gone_out OR p_may_have_gone_out
    WHERE id = p_id AND attempts = p_attempt AND status = 'sending';
END $$;
CREATE FUNCTION public.sla_compliance(p_start timestamp with time zone, p_end timestamp with time zone) RETURNS TABLE(severity public.alert_severity, tta_eligible bigint, tta_met bigint, tta_breached bigint, tta_open_past_due bigint, tta_compliance_pct double precision, mtta_mean double precision, mtta_p50 double precision, mtta_p90 double precision, mtta_p95 double precision, ttr_eligible bigint, ttr_met bigint, ttr_breached bigint, ttr_open_past_due bigint, ttr_compliance_pct double precision, mttr_mean double precision, mttr_p50 double precision, mttr_p90 double precision, mttr_p95 double precision)
    LANGUAGE sql STABLE
    AS $$
    SELECT s.severity,
           count(*) FILTER (WHERE s.actual_tta IS NOT NULL OR s.tta_breached),
           count(*) FILTER (WHERE s.actual_tta IS NOT NULL AND NOT s.tta_breached),
           count(*) FILTER (WHERE s.tta_breached),
           count(*) FILTER (WHERE s.tta_breached AND s.actual_tta IS NULL),
           100.0 * count(*) FILTER (WHERE s.actual_tta IS NOT NULL AND NOT s.tta_breached)
               / NULLIF(count(*) FILTER (WHERE s.actual_tta IS NOT NULL OR s.tta_breached), 0),
           avg(s.actual_tta) FILTER (WHERE s.acknowledged_at IS NOT NULL),
           percentile_cont(0.50) WITHIN GROUP (ORDER BY s.actual_tta) FILTER (WHERE s.acknowledged_at IS NOT NULL),
           percentile_cont(0.90) WITHIN GROUP (ORDER BY s.actual_tta) FILTER (WHERE s.acknowledged_at IS NOT NULL),
           percentile_cont(0.95) WITHIN GROUP (ORDER BY s.actual_tta) FILTER (WHERE s.acknowledged_at IS NOT NULL),
           count(*) FILTER (WHERE s.actual_ttr IS NOT NULL OR s.ttr_breached),
           count(*) FILTER (WHERE s.actual_ttr IS NOT NULL AND NOT s.ttr_breached),
           count(*) FILTER (WHERE s.ttr_breached),
           count(*) FILTER (WHERE s.ttr_breached AND s.actual_ttr IS NULL),
           100.0 * count(*) FILTER (WHERE s.actual_ttr IS NOT NULL AND NOT s.ttr_breached)
               / NULLIF(count(*) FILTER (WHERE s.actual_ttr IS NOT NULL OR s.ttr_breached), 0),
           avg(s.actual_ttr),
           percentile_cont(0.50) WITHIN GROUP (ORDER BY s.actual_ttr),
           percentile_cont(0.90) WITHIN GROUP (ORDER BY s.actual_ttr),
           percentile_cont(0.95) WITHIN GROUP (ORDER BY s.actual_ttr)
    FROM v_alert_sla_status AS s
    WHERE s.started_at >= p_start AND s.started_at < p_end AND NOT s.is_duplicate
    GROUP BY s.severity;
$$;
CREATE TABLE public.sms_opt_outs (
    to_number text NOT NULL,
    opted_out_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
COMMENT ON TABLE public.sms_opt_outs IS 'numbers whose owner told the provider to stop; the next SMS that it takes in clears the mark';
CREATE FUNCTION public.sms_opted_out_at(p_number text) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    RETURN (SELECT o.opted_out_at FROM public.sms_opt_outs o WHERE (o.to_number = sms_opted_out_at.p_number));
CREATE FUNCTION public.split_reports(p_reports public.alert_report[], p_window_seconds integer) RETURNS TABLE(device_id uuid, metric text, key_class text, run bigint, first_position bigint, positions bigint[], arrived bigint, begins_at timestamp with time zone, first_at timestamp with time zone, last_at timestamp with time zone, severity public.alert_severity)
    LANGUAGE sql STABLE
    AS $$
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
CREATE FUNCTION public.start_escalation(p_alert public.alerts, p_policy public.escalation_policies, p_first_tier integer DEFAULT 1) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_id bigint;
BEGIN
    LOOP
        INSERT INTO escalations (alert_id, group_id, policy_id, device_id, due_at, next_pass, next_tier, severity,
                                 metric, key_class, policy_name, rules)
        VALUES (p_alert.id, p_alert.group_id, p_policy.id, p_alert.device_id,
                app_now() + make_interval(mins => CASE p_first_tier
                    WHEN 1 THEN (p_policy.rules #>> '{tiers,0,delay_minutes}')::integer ELSE 0 END),
                1, p_first_tier, p_alert.severity, p_alert.metric, p_alert.key_class, p_policy.name, p_policy.rules)
        ON CONFLICT (device_id, metric, key_class) WHERE ended_at IS NULL DO NOTHING
        RETURNING id INTO v_id;
        EXIT WHEN FOUND;
        -- Not found where it has ended between the two statements: the next round starts one.
        SELECT id INTO v_id FROM escalations
        WHERE device_id = p_alert.device_id AND metric = p_alert.metric AND key_class = p_alert.key_class
            AND ended_at IS NULL;
        EXIT WHEN FOUND;
    END LOOP;
    UPDATE alert_groups SET escalation_id = v_id WHERE id = p_alert.group_id;
    RETURN v_id;
END $$;
CREATE FUNCTION public.stop_sla_clocks(p_alert_ids bigint[], p_state public.alert_state, p_at timestamp with time zone, p_implied boolean, OUT tta_breaches bigint, OUT ttr_breaches bigint) RETURNS record
    LANGUAGE sql
    AS $$
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
ALTER TABLE public.alert_groups ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.alert_groups_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.alert_notes (
    id bigint NOT NULL,
    alert_id bigint NOT NULL,
    written_by text NOT NULL,
    notes text NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    CONSTRAINT alert_notes_notes_check CHECK (((char_length(notes) >= 1) AND (char_length(notes) <= 4000)))
);
ALTER TABLE public.alert_notes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.alert_notes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.alert_states (
    id bigint NOT NULL,
    alert_id bigint NOT NULL,
    previous_state public.alert_state,
    state public.alert_state NOT NULL,
    changed_by text DEFAULT 'system'::text NOT NULL,
    actor_kind public.alert_actor_kind DEFAULT 'user'::public.alert_actor_kind NOT NULL,
    implied boolean DEFAULT false NOT NULL,
    notes text,
    resolution public.alert_resolution,
    assigned_to_user_id bigint,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
COMMENT ON COLUMN public.alert_states.implied IS 'a step that a later one took along (resolve with advance): recorded, but nobody acknowledged in person';
ALTER TABLE public.alert_states ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.alert_states_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE public.alerts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alerts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE public.escalation_policies ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.escalation_policies_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.escalation_steps (
    escalation_id bigint NOT NULL,
    pass integer NOT NULL,
    tier integer NOT NULL,
    taken_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    unreachable jsonb NOT NULL
);
COMMENT ON COLUMN public.escalation_steps.unreachable IS 'the recipients that could not be reached, each with the reason';
CREATE TABLE public.escalations (
    id bigint NOT NULL,
    alert_id bigint NOT NULL,
    group_id bigint NOT NULL,
    policy_id bigint NOT NULL,
    device_id uuid NOT NULL,
    started_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    ended_at timestamp with time zone,
    due_at timestamp with time zone,
    pass integer DEFAULT 1 NOT NULL,
    current_tier integer,
    next_pass integer,
    next_tier integer,
    status public.escalation_status DEFAULT 'pending'::public.escalation_status NOT NULL,
    severity public.alert_severity NOT NULL,
    metric text NOT NULL,
    key_class text NOT NULL,
    ended_by text,
    policy_name text NOT NULL,
    rules jsonb NOT NULL
)
WITH (fillfactor='80');
COMMENT ON COLUMN public.escalations.alert_id IS 'the alert that started it';
COMMENT ON COLUMN public.escalations.policy_id IS 'for the record: the policy may have been changed or deleted since, the rules are kept';
COMMENT ON COLUMN public.escalations.current_tier IS 'the last tier taken, counted from 1; NULL before the first';
COMMENT ON COLUMN public.escalations.severity IS 'the severity that it pages with';
COMMENT ON COLUMN public.escalations.ended_by IS 'who cancelled it';
ALTER TABLE public.escalations ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.escalations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.idempotency_keys (
    caller text NOT NULL,
    key text NOT NULL,
    request_hash text NOT NULL,
    answer jsonb,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
CREATE TABLE public.login_failures (
    id bigint NOT NULL,
    throttle text NOT NULL,
    failed_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
ALTER TABLE public.login_failures ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.login_failures_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ml_false_positives (
    alert_id bigint NOT NULL,
    model_id bigint NOT NULL,
    called_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
CREATE TABLE public.ml_models (
    id bigint NOT NULL,
    series_id bigint NOT NULL,
    learns_from bigint NOT NULL,
    readings bigint DEFAULT 0 NOT NULL,
    rows_total bigint NOT NULL,
    rows_done bigint DEFAULT 0 NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    algorithm text NOT NULL,
    data_start timestamp with time zone NOT NULL,
    data_end timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    trained_at timestamp with time zone,
    created_by text NOT NULL,
    error text,
    metrics jsonb DEFAULT '{}'::jsonb NOT NULL,
    state bytea,
    CONSTRAINT ml_models_ready_has_state CHECK (((status <> 'ready'::text) OR (state IS NOT NULL))),
    CONSTRAINT ml_models_status_check CHECK ((status = ANY (ARRAY['training'::text, 'ready'::text, 'failed'::text])))
);
ALTER TABLE ONLY public.ml_models ALTER COLUMN state SET STORAGE EXTERNAL;
COMMENT ON COLUMN public.ml_models.learns_from IS 'last_number of the series when its rows were taken: it learns what came after';
COMMENT ON COLUMN public.ml_models.readings IS 'scored in activations that have ended';
COMMENT ON COLUMN public.ml_models.state IS 'sealed, as trained';
ALTER TABLE public.ml_models ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ml_models_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ml_series (
    id bigint NOT NULL,
    device_id uuid NOT NULL,
    last_number bigint DEFAULT 0 NOT NULL,
    activation bigint DEFAULT 0 NOT NULL,
    activated_number bigint DEFAULT 0 NOT NULL,
    active_model_id bigint,
    last_version integer DEFAULT 0 NOT NULL,
    metric text NOT NULL,
    silence_alert_id bigint
)
WITH (fillfactor='50');
COMMENT ON COLUMN public.ml_series.last_number IS 'the number of the newest reading';
COMMENT ON COLUMN public.ml_series.activation IS 'counts changes of the active model: what a process has cached holds for one of them';
COMMENT ON COLUMN public.ml_series.activated_number IS 'last_number when the active model became active';
COMMENT ON COLUMN public.ml_series.active_model_id IS 'the one version that scores; NULL: none does';
COMMENT ON COLUMN public.ml_series.silence_alert_id IS 'the alert for the silence that goes on; NULL while readings come';
ALTER TABLE public.ml_series ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ml_series_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ml_snapshots (
    model_id bigint NOT NULL,
    number bigint NOT NULL,
    since timestamp with time zone NOT NULL,
    state bytea NOT NULL
);
ALTER TABLE ONLY public.ml_snapshots ALTER COLUMN state SET STORAGE EXTERNAL;
COMMENT ON COLUMN public.ml_snapshots.number IS 'the newest reading that the state has learnt';
COMMENT ON COLUMN public.ml_snapshots.since IS 'when that reading was stored: nothing older has to be looked at';
CREATE TABLE public.ml_training_jobs (
    model_id bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    leased_by text,
    leased_until timestamp with time zone,
    readings bytea NOT NULL
);
ALTER TABLE ONLY public.ml_training_jobs ALTER COLUMN readings SET STORAGE EXTERNAL;
COMMENT ON COLUMN public.ml_training_jobs.readings IS 'seconds since 1970, then values, as little-endian doubles';
CREATE TABLE public.notifications (
    id bigint NOT NULL,
    escalation_id bigint NOT NULL,
    alert_id bigint NOT NULL,
    user_id bigint,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    due_at timestamp with time zone DEFAULT public.app_now(),
    give_up_at timestamp with time zone,
    sent_at timestamp with time zone,
    delivered_at timestamp with time zone,
    pass integer NOT NULL,
    tier integer NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    segments integer,
    status public.notification_status DEFAULT 'pending'::public.notification_status NOT NULL,
    may_have_gone_out boolean DEFAULT false NOT NULL,
    is_setting_fault boolean DEFAULT false NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    recipient text NOT NULL,
    provider_id text,
    provider_status text,
    price numeric,
    price_unit text,
    error text
)
WITH (fillfactor='70');
COMMENT ON COLUMN public.notifications.give_up_at IS 'when temporary failures are no longer answered by another attempt';
COMMENT ON COLUMN public.notifications.may_have_gone_out IS 'an answer was lost: the provider is asked before this is sent again';
COMMENT ON COLUMN public.notifications.is_setting_fault IS 'it failed by a fault of the settings, which stops its whole channel';
COMMENT ON COLUMN public.notifications.recipient IS 'as the policy names it: an address, user:ID or oncall:ID';
ALTER TABLE public.notifications ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.notifications_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.on_call_schedules (
    id bigint NOT NULL,
    name text NOT NULL,
    rotation_type text NOT NULL,
    rotation_start timestamp without time zone NOT NULL,
    rotation_interval_days integer NOT NULL,
    timezone text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    users jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    updated_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    CONSTRAINT on_call_schedules_rotation_interval_days_check CHECK (((rotation_interval_days >= 1) AND (rotation_interval_days <= 9000))),
    CONSTRAINT on_call_schedules_rotation_type_check CHECK ((rotation_type = ANY (ARRAY['daily'::text, 'weekly'::text, 'custom'::text])))
);
COMMENT ON COLUMN public.on_call_schedules.rotation_start IS 'local time of the zone, a whole minute';
COMMENT ON COLUMN public.on_call_schedules.users IS 'the users in the order of their shifts, and the overrides, oldest written first';
ALTER TABLE public.on_call_schedules ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.on_call_schedules_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.schema_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.sla_targets (
    severity public.alert_severity NOT NULL,
    target_tta integer NOT NULL,
    target_ttr integer NOT NULL,
    updated_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    updated_by text DEFAULT 'system'::text NOT NULL,
    paging_policy_id bigint,
    CONSTRAINT sla_targets_resolve_after_acknowledge CHECK ((target_ttr >= target_tta)),
    CONSTRAINT sla_targets_target_tta_check CHECK (((target_tta >= 1) AND (target_tta <= 5256000))),
    CONSTRAINT sla_targets_target_ttr_check CHECK (((target_ttr >= 1) AND (target_ttr <= 5256000)))
);
COMMENT ON COLUMN public.sla_targets.target_tta IS 'minutes to acknowledge';
COMMENT ON COLUMN public.sla_targets.target_ttr IS 'minutes to resolve';
COMMENT ON COLUMN public.sla_targets.paging_policy_id IS 'the policy for the severity, as find_escalation_policy finds it; kept by triggers, and for raise_alert alone';
CREATE TABLE public.sms_log (
    id bigint NOT NULL,
    to_number text NOT NULL,
    notification_id bigint,
    sent_at timestamp with time zone DEFAULT public.app_now() NOT NULL
);
COMMENT ON COLUMN public.sms_log.notification_id IS 'NULL for an SMS that belongs to no notification';
ALTER TABLE public.sms_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.sms_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.tallies (
    severity public.alert_severity,
    state public.alert_state,
    alerts bigint DEFAULT 0 CONSTRAINT tally_entries_alerts_not_null NOT NULL,
    groups_opened bigint DEFAULT 0 CONSTRAINT tally_entries_groups_opened_not_null NOT NULL,
    groups_closed bigint DEFAULT 0 CONSTRAINT tally_entries_groups_closed_not_null NOT NULL,
    largest_group bigint DEFAULT 0 CONSTRAINT tally_entries_largest_group_not_null NOT NULL,
    tta_breaches bigint DEFAULT 0 CONSTRAINT tally_entries_tta_breaches_not_null NOT NULL,
    ttr_breaches bigint DEFAULT 0 CONSTRAINT tally_entries_ttr_breaches_not_null NOT NULL
);
CREATE TABLE public.tally_entries (
    severity public.alert_severity,
    state public.alert_state,
    alerts bigint DEFAULT 0 NOT NULL,
    groups_opened bigint DEFAULT 0 NOT NULL,
    groups_closed bigint DEFAULT 0 NOT NULL,
    largest_group bigint DEFAULT 0 NOT NULL,
    tta_breaches bigint DEFAULT 0 NOT NULL,
    ttr_breaches bigint DEFAULT 0 NOT NULL
);
CREATE TABLE public.telemetry (
    series_id bigint NOT NULL,
    number bigint NOT NULL,
    read_at timestamp with time zone NOT NULL,
    stored_at timestamp with time zone NOT NULL,
    value double precision NOT NULL
)
PARTITION BY RANGE (stored_at);
CREATE TABLE public.users (
    id bigint NOT NULL,
    email text NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    password_hash text,
    phone text,
    time_zone text DEFAULT 'UTC'::text NOT NULL,
    created_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    updated_at timestamp with time zone DEFAULT public.app_now() NOT NULL,
    session_number integer DEFAULT 1 NOT NULL,
    CONSTRAINT users_email_check CHECK ((email = lower(email))),
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['viewer'::text, 'device'::text, 'operator'::text, 'engineer'::text, 'admin'::text])))
);
ALTER TABLE public.users ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW public.v_active_alert_groups AS
 SELECT id AS group_id,
    public.group_key(g.*) AS group_key,
    device_id,
    metric,
    severity,
    status,
    occurrence_count,
    open_alerts,
    first_occurrence_at,
    last_occurrence_at,
    public.noise_reduction_pct((1)::numeric, (occurrence_count)::numeric) AS noise_reduction_pct
   FROM public.alert_groups g
  WHERE (status = 'active'::public.alert_group_status);
CREATE VIEW public.v_active_unacknowledged_alerts AS
 SELECT a.id AS alert_id,
    a.device_id,
    a.severity,
    a.message,
    a.metric,
    a.group_id,
    a.created_at,
    public.minutes_between(a.created_at, public.app_now()) AS age_minutes,
    s.tta_due_at,
    (s.tta_breached OR (s.tta_due_at < public.app_now())) AS tta_breached
   FROM (public.alerts a
     JOIN public.alert_slas s ON ((s.alert_id = a.id)))
  WHERE ((a.state = 'new'::public.alert_state) AND (a.duplicate_of IS NULL));
CREATE VIEW public.v_alert_sla_status AS
 SELECT alert_id,
    severity,
    is_duplicate,
    started_at,
    target_tta,
    target_ttr,
    actual_tta,
    actual_ttr,
    tta_due_at,
    ttr_due_at,
    acknowledged_at,
    resolved_at,
    (tta_breached OR ((actual_tta IS NULL) AND (tta_due_at < public.app_now()))) AS tta_breached,
    (ttr_breached OR ((actual_ttr IS NULL) AND (ttr_due_at < public.app_now()))) AS ttr_breached,
    ((actual_tta IS NULL) AND ((public.app_now() >= (started_at + ((target_tta)::double precision * '00:00:45'::interval))) AND (public.app_now() <= tta_due_at))) AS tta_at_risk,
    ((actual_ttr IS NULL) AND ((public.app_now() >= (started_at + ((target_ttr)::double precision * '00:00:45'::interval))) AND (public.app_now() <= ttr_due_at))) AS ttr_at_risk
   FROM public.alert_slas s;
CREATE VIEW public.v_alert_details AS
 SELECT a.id AS alert_id,
    (a.device_id)::text AS device_id,
    a.severity,
    a.message,
    a.metric,
    a.source,
    a.metadata,
    a.state,
    a.group_id,
    a.duplicate_of,
    a.escalate,
    a.assigned_to_user_id,
    a.resolution,
    a.reported_by,
    a.occurred_at,
    a.created_at,
    s.target_tta,
    s.target_ttr,
    s.actual_tta,
    s.actual_ttr,
    s.tta_due_at,
    s.ttr_due_at,
    s.acknowledged_at,
    s.resolved_at,
    s.tta_breached,
    s.ttr_breached,
    s.tta_at_risk,
    s.ttr_at_risk
   FROM (public.alerts a
     JOIN public.v_alert_sla_status s ON ((s.alert_id = a.id)));
CREATE VIEW public.v_alert_escalations AS
 SELECT a.id AS alert_id,
    e.id AS escalation_id
   FROM (((public.alerts a
     JOIN public.alert_slas s ON ((s.alert_id = a.id)))
     JOIN public.alert_groups g ON ((g.id = a.group_id)))
     CROSS JOIN LATERAL ( SELECT e_1.id,
            e_1.alert_id,
            e_1.started_at,
            e_1.ended_at
           FROM public.escalations e_1
          WHERE (e_1.group_id = g.id)
        UNION
         SELECT e_1.id,
            e_1.alert_id,
            e_1.started_at,
            e_1.ended_at
           FROM public.escalations e_1
          WHERE (e_1.id = g.escalation_id)) e)
  WHERE ((e.alert_id = a.id) OR (((e.ended_at IS NULL) OR (e.ended_at >= a.created_at)) AND ((s.resolved_at IS NULL) OR (e.started_at < s.resolved_at))));
CREATE VIEW public.v_tallies AS
 SELECT severity,
    state,
    (sum(alerts))::bigint AS alerts,
    (sum(groups_opened))::bigint AS groups_opened,
    (sum(groups_closed))::bigint AS groups_closed,
    max(largest_group) AS largest_group,
    (sum(tta_breaches))::bigint AS tta_breaches,
    (sum(ttr_breaches))::bigint AS ttr_breaches
   FROM ( SELECT tallies.severity,
            tallies.state,
            tallies.alerts,
            tallies.groups_opened,
            tallies.groups_closed,
            tallies.largest_group,
            tallies.tta_breaches,
            tallies.ttr_breaches
           FROM public.tallies
        UNION ALL
         SELECT tally_entries.severity,
            tally_entries.state,
            tally_entries.alerts,
            tally_entries.groups_opened,
            tally_entries.groups_closed,
            tally_entries.largest_group,
            tally_entries.tta_breaches,
            tally_entries.ttr_breaches
           FROM public.tally_entries) folded_and_fresh
  GROUP BY severity, state;
CREATE VIEW public.v_alert_group_stats AS
 SELECT (COALESCE(sum(groups_opened), (0)::numeric))::bigint AS total_groups,
    (COALESCE(sum((groups_opened - groups_closed)), (0)::numeric))::bigint AS active_groups,
    (COALESCE(sum(groups_closed), (0)::numeric))::bigint AS closed_groups,
    (COALESCE(sum(alerts), (0)::numeric))::bigint AS total_alerts,
    (COALESCE((sum(alerts) / NULLIF(sum(groups_opened), (0)::numeric)), (0)::numeric))::double precision AS avg_alerts_per_group,
    COALESCE(max(largest_group), (0)::bigint) AS max_alerts_in_group,
    public.noise_reduction_pct(sum(groups_opened), sum(alerts)) AS noise_reduction_pct
   FROM public.v_tallies;
CREATE VIEW public.v_alert_groups AS
 SELECT id AS group_id,
    public.group_key(g.*) AS group_key,
    (device_id)::text AS device_id,
    metric,
    severity,
    status,
    occurrence_count,
    open_alerts,
    first_occurrence_at,
    last_occurrence_at,
    closed_at,
    public.noise_reduction_pct((1)::numeric, (occurrence_count)::numeric) AS noise_reduction_pct
   FROM public.alert_groups g;
CREATE VIEW public.v_current_alert_states AS
 SELECT a.id AS alert_id,
    a.device_id,
    a.severity,
    a.message,
    a.metric,
    a.group_id,
    a.duplicate_of,
    a.created_at,
    s.id AS state_id,
    s.state,
    s.previous_state,
    s.changed_by,
    s.notes,
    s.created_at AS state_changed_at
   FROM (public.alerts a
     CROSS JOIN LATERAL ( SELECT h.id,
            h.alert_id,
            h.previous_state,
            h.state,
            h.changed_by,
            h.actor_kind,
            h.implied,
            h.notes,
            h.resolution,
            h.assigned_to_user_id,
            h.created_at
           FROM public.alert_states h
          WHERE (h.alert_id = a.id)
          ORDER BY h.id DESC
         LIMIT 1) s);
CREATE VIEW public.v_escalations AS
 SELECT id AS escalation_id,
    alert_id,
    group_id,
    (device_id)::text AS device_id,
    metric,
    severity,
    policy_id,
    policy_name,
    status,
    pass,
    current_tier,
        CASE
            WHEN (next_tier IS NOT NULL) THEN due_at
            ELSE NULL::timestamp with time zone
        END AS next_tier_at,
    started_at,
    ended_at,
    ended_by
   FROM public.escalations e;
CREATE VIEW public.v_ml_models AS
 SELECT m.id AS model_id,
    s.id AS series_id,
    (s.device_id)::text AS device_id,
    s.metric,
    m.version,
    m.algorithm,
    m.status,
    (NOT (s.active_model_id IS DISTINCT FROM m.id)) AS is_active,
    m.rows_total,
    m.rows_done,
    m.error,
    m.data_start,
    m.data_end,
    m.metrics,
    ((m.rows_done + m.readings) +
        CASE
            WHEN (s.active_model_id = m.id) THEN (s.last_number - s.activated_number)
            ELSE (0)::bigint
        END) AS rows_seen,
    m.created_by,
    m.created_at,
    m.trained_at
   FROM (public.ml_models m
     JOIN public.ml_series s ON ((s.id = m.series_id)));
CREATE VIEW public.v_notification_channels AS
 WITH RECURSIVE used AS (
         SELECT min(notifications.channel) AS channel
           FROM public.notifications
        UNION ALL
         SELECT ( SELECT min(n.channel) AS min
                   FROM public.notifications n
                  WHERE (n.channel > used_1.channel)) AS min
           FROM used used_1
          WHERE (used_1.channel IS NOT NULL)
        )
 SELECT channel
   FROM used
  WHERE (channel IS NOT NULL);
CREATE VIEW public.v_sla_compliance_summary AS
 SELECT severity,
    tta_eligible,
    tta_met,
    tta_breached,
    tta_open_past_due,
    tta_compliance_pct,
    mtta_mean,
    mtta_p50,
    mtta_p90,
    mtta_p95,
    ttr_eligible,
    ttr_met,
    ttr_breached,
    ttr_open_past_due,
    ttr_compliance_pct,
    mttr_mean,
    mttr_p50,
    mttr_p90,
    mttr_p95
   FROM public.sla_compliance('-infinity'::timestamp with time zone, 'infinity'::timestamp with time zone) sla_compliance(severity, tta_eligible, tta_met, tta_breached, tta_open_past_due, tta_compliance_pct, mtta_mean, mtta_p50, mtta_p90, mtta_p95, ttr_eligible, ttr_met, ttr_breached, ttr_open_past_due, ttr_compliance_pct, mttr_mean, mttr_p50, mttr_p90, mttr_p95);
CREATE TABLE public.worker_heartbeats (
    worker text NOT NULL,
    beat_at timestamp with time zone NOT NULL
);
ALTER TABLE ONLY public.alert_groups
    ADD CONSTRAINT alert_groups_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.alert_notes
    ADD CONSTRAINT alert_notes_pkey PRIMARY KEY (alert_id, id);
ALTER TABLE ONLY public.alert_slas
    ADD CONSTRAINT alert_slas_pkey PRIMARY KEY (alert_id);
ALTER TABLE ONLY public.alert_states
    ADD CONSTRAINT alert_states_pkey PRIMARY KEY (alert_id, id);
ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.escalation_policies
    ADD CONSTRAINT escalation_policies_name_unique UNIQUE (name);
ALTER TABLE ONLY public.escalation_policies
    ADD CONSTRAINT escalation_policies_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.escalation_steps
    ADD CONSTRAINT escalation_steps_pkey PRIMARY KEY (escalation_id, pass, tier);
ALTER TABLE ONLY public.escalations
    ADD CONSTRAINT escalations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, key);
ALTER TABLE ONLY public.login_failures
    ADD CONSTRAINT login_failures_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ml_false_positives
    ADD CONSTRAINT ml_false_positives_pkey PRIMARY KEY (alert_id);
ALTER TABLE ONLY public.ml_models
    ADD CONSTRAINT ml_models_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ml_models
    ADD CONSTRAINT ml_models_version_unique UNIQUE (series_id, version);
ALTER TABLE ONLY public.ml_series
    ADD CONSTRAINT ml_series_device_metric_unique UNIQUE (device_id, metric);
ALTER TABLE ONLY public.ml_series
    ADD CONSTRAINT ml_series_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ml_snapshots
    ADD CONSTRAINT ml_snapshots_pkey PRIMARY KEY (model_id);
ALTER TABLE ONLY public.ml_training_jobs
    ADD CONSTRAINT ml_training_jobs_pkey PRIMARY KEY (model_id);
ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_one_per_address UNIQUE (escalation_id, pass, tier, channel, address);
ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.on_call_schedules
    ADD CONSTRAINT on_call_schedules_name_unique UNIQUE (name);
ALTER TABLE ONLY public.on_call_schedules
    ADD CONSTRAINT on_call_schedules_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.sla_targets
    ADD CONSTRAINT sla_targets_pkey PRIMARY KEY (severity);
ALTER TABLE ONLY public.sms_log
    ADD CONSTRAINT sms_log_notification_unique UNIQUE (notification_id);
ALTER TABLE ONLY public.sms_log
    ADD CONSTRAINT sms_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sms_opt_outs
    ADD CONSTRAINT sms_opt_outs_pkey PRIMARY KEY (to_number);
ALTER TABLE ONLY public.tallies
    ADD CONSTRAINT tallies_one_per_severity_and_state UNIQUE NULLS NOT DISTINCT (severity, state);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_unique UNIQUE (email);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.worker_heartbeats
    ADD CONSTRAINT worker_heartbeats_pkey PRIMARY KEY (worker);
CREATE INDEX alert_groups_device_newest ON public.alert_groups USING btree (device_id, first_occurrence_at, id);
CREATE UNIQUE INDEX alert_groups_one_active_per_key ON public.alert_groups USING btree (device_id, metric, key_class) WHERE (status = 'active'::public.alert_group_status);
CREATE INDEX alert_groups_status_newest ON public.alert_groups USING btree (status, first_occurrence_at, id);
CREATE INDEX alert_slas_next_due ON public.alert_slas USING btree (next_due_at) WHERE (next_due_at IS NOT NULL);
CREATE INDEX alert_slas_started ON public.alert_slas USING brin (started_at) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX alerts_device_newest ON public.alerts USING btree (device_id, created_at, id);
CREATE INDEX alerts_duplicate_of ON public.alerts USING btree (duplicate_of) WHERE (duplicate_of IS NOT NULL);
CREATE INDEX alerts_group_newest ON public.alerts USING btree (group_id, created_at, id);
CREATE INDEX alerts_metric_newest ON public.alerts USING btree (metric, created_at, id);
CREATE INDEX alerts_newest ON public.alerts USING btree (created_at, id);
CREATE UNIQUE INDEX alerts_one_open_original ON public.alerts USING btree (group_id, md5((message)::text)) WHERE ((duplicate_of IS NULL) AND (state <> 'resolved'::public.alert_state));
CREATE INDEX alerts_severity_state_newest ON public.alerts USING btree (severity, state, created_at, id);
CREATE INDEX escalations_device_newest ON public.escalations USING btree (device_id, started_at, id);
CREATE INDEX escalations_due ON public.escalations USING btree (due_at) WHERE (ended_at IS NULL);
CREATE INDEX escalations_group ON public.escalations USING btree (group_id);
CREATE UNIQUE INDEX escalations_one_running_per_key ON public.escalations USING btree (device_id, metric, key_class) WHERE (ended_at IS NULL);
CREATE INDEX escalations_status_newest ON public.escalations USING btree (status, started_at, id);
CREATE INDEX idempotency_keys_created_at ON public.idempotency_keys USING brin (created_at);
CREATE INDEX login_failures_failed_at ON public.login_failures USING btree (failed_at);
CREATE INDEX login_failures_throttle ON public.login_failures USING btree (throttle, failed_at);
CREATE INDEX ml_models_newest ON public.ml_models USING btree (created_at DESC, id DESC);
CREATE INDEX notifications_channel_status ON public.notifications USING btree (channel, status, created_at);
CREATE INDEX notifications_due ON public.notifications USING btree (channel, due_at) WHERE (due_at IS NOT NULL);
CREATE INDEX notifications_sending ON public.notifications USING btree (escalation_id) WHERE (status = 'sending'::public.notification_status);
CREATE INDEX notifications_setting_faults ON public.notifications USING btree (channel, created_at) WHERE is_setting_fault;
CREATE INDEX notifications_unpriced ON public.notifications USING btree (sent_at) WHERE ((channel = 'sms'::text) AND (sent_at IS NOT NULL) AND (price IS NULL));
CREATE INDEX sms_log_sent_at ON public.sms_log USING btree (sent_at);
CREATE INDEX sms_log_to_number ON public.sms_log USING btree (to_number, sent_at);
CREATE INDEX telemetry_number ON ONLY public.telemetry USING btree (series_id, number);
CREATE INDEX telemetry_read_at ON ONLY public.telemetry USING btree (series_id, read_at);
CREATE TRIGGER alert_groups_are_kept BEFORE DELETE ON public.alert_groups FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('groups are part of the record');
CREATE TRIGGER alert_groups_are_not_emptied BEFORE TRUNCATE ON public.alert_groups FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_record('groups are part of the record');
CREATE TRIGGER alert_groups_record_status BEFORE UPDATE OF status ON public.alert_groups FOR EACH ROW EXECUTE FUNCTION public.record_group_status();
CREATE TRIGGER alert_slas_are_kept BEFORE DELETE ON public.alert_slas FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('clocks are part of the record');
CREATE TRIGGER alert_slas_are_not_emptied BEFORE TRUNCATE ON public.alert_slas FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_record('clocks are part of the record');
CREATE TRIGGER alert_states_apply BEFORE INSERT ON public.alert_states FOR EACH ROW EXECUTE FUNCTION public.apply_alert_state();
CREATE TRIGGER alert_states_are_kept BEFORE DELETE OR UPDATE ON public.alert_states FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('the history is never rewritten');
CREATE TRIGGER alert_states_are_not_emptied BEFORE TRUNCATE ON public.alert_states FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_record('the history is never rewritten');
CREATE TRIGGER alerts_are_kept BEFORE DELETE ON public.alerts FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('alerts are the record');
CREATE TRIGGER alerts_are_not_emptied BEFORE TRUNCATE ON public.alerts FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_record('alerts are the record');
CREATE TRIGGER alerts_are_placed_once BEFORE UPDATE OF device_id, severity, message, metric, key_class ON public.alerts FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('its group, duplicates and tallies were decided by it');
CREATE TRIGGER alerts_count_ml_false_positives AFTER UPDATE OF resolution ON public.alerts FOR EACH ROW WHEN (((new.resolution = 'false_positive'::public.alert_resolution) AND (old.resolution IS DISTINCT FROM new.resolution))) EXECUTE FUNCTION public.record_ml_false_positive();
CREATE TRIGGER alerts_place BEFORE INSERT ON public.alerts FOR EACH ROW EXECUTE FUNCTION public.place_alert();
CREATE TRIGGER alerts_state_moves_by_history BEFORE UPDATE OF state, group_id, duplicate_of ON public.alerts FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_record('insert the step into alert_states');
CREATE TRIGGER escalation_policies_name_paging_policies AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.escalation_policies FOR EACH STATEMENT EXECUTE FUNCTION public.name_paging_policies();
CREATE TRIGGER escalation_policies_take_turns BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.escalation_policies FOR EACH STATEMENT EXECUTE FUNCTION public.await_other_policies();
CREATE TRIGGER sla_targets_name_paging_policy BEFORE INSERT OR UPDATE ON public.sla_targets FOR EACH ROW EXECUTE FUNCTION public.name_paging_policy();
ALTER TABLE ONLY public.alert_notes
    ADD CONSTRAINT alert_notes_alert_id_fkey FOREIGN KEY (alert_id) REFERENCES public.alerts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.escalation_steps
    ADD CONSTRAINT escalation_steps_escalation_id_fkey FOREIGN KEY (escalation_id) REFERENCES public.escalations(id);
ALTER TABLE ONLY public.ml_models
    ADD CONSTRAINT ml_models_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.ml_series(id);
ALTER TABLE ONLY public.ml_series
    ADD CONSTRAINT ml_series_active_model FOREIGN KEY (active_model_id) REFERENCES public.ml_models(id);
ALTER TABLE ONLY public.ml_snapshots
    ADD CONSTRAINT ml_snapshots_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.ml_models(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.ml_training_jobs
    ADD CONSTRAINT ml_training_jobs_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.ml_models(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_escalation_id_fkey FOREIGN KEY (escalation_id) REFERENCES public.escalations(id);
