-- What people, dashboards and SQL clients read.

-- The newest state of an alert; no row for an alert that does not exist.
CREATE FUNCTION get_current_alert_state(p_alert_id bigint)
RETURNS TABLE (id bigint, alert_id bigint, state alert_state, previous_state alert_state, changed_by text,
               notes text, created_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT s.id, s.alert_id, s.state, s.previous_state, s.changed_by, s.notes, s.created_at
    FROM alert_states AS s WHERE s.alert_id = p_alert_id ORDER BY s.id DESC LIMIT 1;
$$;

-- Whether somebody has taken an alert in hand: false while it is new, NULL where there is no such alert.
CREATE FUNCTION is_alert_acknowledged(p_alert_id bigint) RETURNS boolean
LANGUAGE sql STABLE
RETURN (SELECT a.state <> 'new' FROM alerts AS a WHERE a.id = p_alert_id);

-- Minutes from the alert to its acknowledgement, up to now while the clock runs.
CREATE FUNCTION calculate_tta(p_alert_id bigint) RETURNS double precision
LANGUAGE sql STABLE
RETURN (SELECT COALESCE(s.actual_tta, minutes_between(s.started_at, app_now()))
        FROM alert_slas AS s WHERE s.alert_id = p_alert_id);

-- Minutes from the alert to its resolution, up to now while the clock runs.
CREATE FUNCTION calculate_ttr(p_alert_id bigint) RETURNS double precision
LANGUAGE sql STABLE
RETURN (SELECT COALESCE(s.actual_ttr, minutes_between(s.started_at, app_now()))
        FROM alert_slas AS s WHERE s.alert_id = p_alert_id);

CREATE VIEW v_current_alert_states AS
SELECT a.id AS alert_id, a.device_id, a.severity, a.message, a.metric, a.group_id, a.duplicate_of, a.created_at,
       s.id AS state_id, s.state, s.previous_state, s.changed_by, s.notes, s.created_at AS state_changed_at
FROM alerts AS a
CROSS JOIN LATERAL (
    SELECT * FROM alert_states AS h WHERE h.alert_id = a.id ORDER BY h.id DESC LIMIT 1) AS s;

CREATE VIEW v_active_unacknowledged_alerts AS
SELECT a.id AS alert_id, a.device_id, a.severity, a.message, a.metric, a.group_id, a.created_at,
       minutes_between(a.created_at, app_now()) AS age_minutes, s.tta_due_at,
       s.tta_breached OR s.tta_due_at < app_now() AS tta_breached
FROM alerts AS a JOIN alert_slas AS s ON s.alert_id = a.id
WHERE a.state = 'new' AND a.duplicate_of IS NULL;

-- The SLA record with what holds at this moment: a clock past due counts as breached before the sweep has
-- flagged it, and is at risk once 75 % of its time has gone.
CREATE VIEW v_alert_sla_status AS
SELECT s.alert_id, s.severity, s.is_duplicate, s.started_at, s.target_tta, s.target_ttr, s.actual_tta, s.actual_ttr,
       s.tta_due_at, s.ttr_due_at, s.acknowledged_at, s.resolved_at,
       s.tta_breached OR (s.actual_tta IS NULL AND s.tta_due_at < app_now()) AS tta_breached,
       s.ttr_breached OR (s.actual_ttr IS NULL AND s.ttr_due_at < app_now()) AS ttr_breached,
       s.actual_tta IS NULL AND app_now() BETWEEN s.started_at + s.target_tta * interval '45 seconds' AND s.tta_due_at
           AS tta_at_risk,
       s.actual_ttr IS NULL AND app_now() BETWEEN s.started_at + s.target_ttr * interval '45 seconds' AND s.ttr_due_at
           AS ttr_at_risk
FROM alert_slas AS s;

-- Compliance per severity over a range, duplicates left out. An alert is eligible once its clock has stopped
-- or run out; one that still runs within its time can be neither met nor breached.
CREATE FUNCTION sla_compliance(p_start timestamptz, p_end timestamptz)
RETURNS TABLE (
    severity alert_severity,
    tta_eligible bigint, tta_met bigint, tta_breached bigint, tta_open_past_due bigint, tta_compliance_pct double precision,
    mtta_mean double precision, mtta_p50 double precision, mtta_p90 double precision, mtta_p95 double precision,
    ttr_eligible bigint, ttr_met bigint, ttr_breached bigint, ttr_open_past_due bigint, ttr_compliance_pct double precision,
    mttr_mean double precision, mttr_p50 double precision, mttr_p90 double precision, mttr_p95 double precision
)
LANGUAGE sql STABLE AS $$
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

CREATE VIEW v_sla_compliance_summary AS
SELECT * FROM sla_compliance('-infinity', 'infinity');

CREATE VIEW v_active_alert_groups AS
SELECT g.id AS group_id, group_key(g) AS group_key, g.device_id, g.metric, g.severity, g.status, g.occurrence_count,
       g.open_alerts, g.first_occurrence_at, g.last_occurrence_at, noise_reduction_pct(1, g.occurrence_count) AS noise_reduction_pct
FROM alert_groups AS g WHERE g.status = 'active';

CREATE VIEW v_alert_group_stats AS
SELECT COALESCE(sum(groups_opened), 0)::bigint AS total_groups,
       COALESCE(sum(groups_opened - groups_closed), 0)::bigint AS active_groups,
       COALESCE(sum(groups_closed), 0)::bigint AS closed_groups,
       COALESCE(sum(alerts), 0)::bigint AS total_alerts,
       COALESCE(sum(alerts) / NULLIF(sum(groups_opened), 0), 0)::double precision AS avg_alerts_per_group,
       COALESCE(max(largest_group), 0)::bigint AS max_alerts_in_group,
       noise_reduction_pct(sum(groups_opened), sum(alerts)) AS noise_reduction_pct
FROM v_tallies;

-- Groups and alerts as the API shows them.
CREATE VIEW v_alert_groups AS
SELECT g.id AS group_id, group_key(g) AS group_key, g.device_id::text AS device_id, g.metric, g.severity, g.status,
       g.occurrence_count, g.open_alerts, g.first_occurrence_at, g.last_occurrence_at, g.closed_at,
       noise_reduction_pct(1, g.occurrence_count) AS noise_reduction_pct
FROM alert_groups AS g;

CREATE VIEW v_alert_details AS
SELECT a.id AS alert_id, a.device_id::text AS device_id, a.severity, a.message, a.metric, a.source, a.metadata, a.state,
       a.group_id, a.duplicate_of, a.escalate, a.assigned_to_user_id, a.resolution, a.reported_by,
       a.occurred_at, a.created_at,
       s.target_tta, s.target_ttr, s.actual_tta, s.actual_ttr, s.tta_due_at, s.ttr_due_at, s.acknowledged_at,
       s.resolved_at, s.tta_breached, s.ttr_breached, s.tta_at_risk, s.ttr_at_risk
FROM alerts AS a JOIN v_alert_sla_status AS s ON s.alert_id = a.id;
