-- name: raise_alert^
-- Records one alert: the hot path.
SELECT * FROM raise_alert(:device_id::uuid, :severity::alert_severity, :message::text, :metadata::jsonb, :metric::text,
                          :source::text, :occurred_at::timestamptz, :escalate::boolean, :reported_by::text,
                          :key_class::text);

-- name: raise_each
-- Records reports one by one in one transaction: in the order of their keys, in which a batch takes its locks too.
SELECT r.position, raised.*
FROM (
    SELECT * FROM jsonb_to_recordset(:reports::jsonb)
         AS r (position integer, device_id uuid, severity alert_severity, message text, metadata jsonb, metric text,
               source text, occurred_at timestamptz, escalate boolean, key_class text, reported_by text)
    ORDER BY device_id, metric, COALESCE(key_class, severity::text), position
) AS r
CROSS JOIN LATERAL raise_alert(r.device_id, r.severity, r.message, r.metadata, r.metric, r.source, r.occurred_at,
                               r.escalate, r.reported_by, r.key_class) AS raised;

-- name: raise_alerts
-- Records a batch, all or nothing; one row per report, in order.
SELECT * FROM raise_alerts(
    ARRAY(
        SELECT ROW(r.device_id, r.severity, r.message, r.metadata, r.metric, r.source,
                   COALESCE(r.occurred_at, app_now()), r.escalate, COALESCE(r.key_class, r.severity::text))::alert_report
        FROM jsonb_to_recordset(:reports::jsonb)
             AS r (device_id uuid, severity alert_severity, message text, metadata jsonb, metric text, source text,
                   occurred_at timestamptz, escalate boolean, key_class text)
    ), :reported_by);

-- name: get_alert^
-- One alert with its clocks, its group and the last escalation that concerns it.
SELECT d.*, to_jsonb(g) AS alert_group, to_jsonb(e) AS escalation
FROM v_alert_details AS d JOIN v_alert_groups AS g USING (group_id)
LEFT JOIN v_escalations AS e ON e.escalation_id = (
    SELECT max(v.escalation_id) FROM v_alert_escalations AS v WHERE v.alert_id = d.alert_id)
WHERE d.alert_id = :alert_id::bigint;

-- name: list_alerts
-- A page in order of an index: that of the device, the group or the metric where one is named, else the newest.
-- Each alert is written as the JSON that the API shows: most of the time of a page was spent on its columns.
SELECT page.id AS alert_id, page.created_at, page.metadata::text ~ '[0-9]{19}' AS has_long_number,
       row_to_json(shown)::text AS shown
FROM (
    SELECT a.*
    FROM alerts AS a
    WHERE (:device_id::uuid IS NULL OR a.device_id = :device_id::uuid)
        AND (:group_id::bigint IS NULL OR a.group_id = :group_id::bigint)
        AND (:metric::text IS NULL OR a.metric = :metric)
        AND (:is_any_class
             OR (a.severity = ANY (:severities::alert_severity[]) AND a.state = ANY (:states::alert_state[])))
        AND (:start_at::timestamptz IS NULL OR a.created_at >= :start_at::timestamptz)
        AND (:end_at::timestamptz IS NULL OR a.created_at < :end_at::timestamptz)
        AND (:text::text IS NULL OR strpos(lower(a.message), lower(:text)) > 0)
        AND (:cursor_at::timestamptz IS NULL
             OR (a.created_at, a.id) < (:cursor_at::timestamptz, :cursor_id::bigint))
    ORDER BY a.created_at DESC, a.id DESC
    OFFSET :offset LIMIT :limit
) AS page
JOIN v_alert_sla_status AS s ON s.alert_id = page.id
CROSS JOIN LATERAL (
    SELECT s.target_tta, s.target_ttr, s.actual_tta, s.actual_ttr, s.tta_breached, s.ttr_breached, s.tta_at_risk,
           s.ttr_at_risk, s.tta_due_at, s.ttr_due_at, s.acknowledged_at, s.resolved_at
) AS sla
CROSS JOIN LATERAL (
    SELECT page.id::text AS alert_id, page.device_id, page.severity, page.message, page.metric, page.source,
           page.metadata, page.state, page.group_id::text AS group_id, page.duplicate_of IS NOT NULL AS is_duplicate,
           page.duplicate_of::text AS duplicate_of, page.escalate,
           page.assigned_to_user_id::text AS assigned_to_user_id, page.resolution, page.reported_by, page.occurred_at,
           page.created_at, s.acknowledged_at, s.resolved_at, sla
) AS shown
ORDER BY page.created_at DESC, page.id DESC;

-- name: list_alerts_by_class
-- A page by severity and state. Each pair is read in order from its own stretch of alerts_severity_state_newest,
-- and the few rows that could make the page are merged; a filter over the newest would walk far for a rare pair.
SELECT page.id AS alert_id, page.created_at, page.metadata::text ~ '[0-9]{19}' AS has_long_number,
       row_to_json(shown)::text AS shown
FROM (
    SELECT a.*
    FROM unnest(CAST(:severities AS alert_severity[])) AS wanted_severity (severity)
    CROSS JOIN unnest(CAST(:states AS alert_state[])) AS wanted_state (state)
    CROSS JOIN LATERAL (
        SELECT a.*
        FROM alerts AS a
        WHERE a.severity = wanted_severity.severity AND a.state = wanted_state.state
            AND (:start_at::timestamptz IS NULL OR a.created_at >= :start_at::timestamptz)
            AND (:end_at::timestamptz IS NULL OR a.created_at < :end_at::timestamptz)
            AND (:text::text IS NULL OR strpos(lower(a.message), lower(:text)) > 0)
            AND (:cursor_at::timestamptz IS NULL
                 OR (a.created_at, a.id) < (:cursor_at::timestamptz, :cursor_id::bigint))
        ORDER BY a.created_at DESC, a.id DESC
        LIMIT :depth
    ) AS a
    ORDER BY a.created_at DESC, a.id DESC
    OFFSET :offset LIMIT :limit
) AS page
JOIN v_alert_sla_status AS s ON s.alert_id = page.id
CROSS JOIN LATERAL (
    SELECT s.target_tta, s.target_ttr, s.actual_tta, s.actual_ttr, s.tta_breached, s.ttr_breached, s.tta_at_risk,
           s.ttr_at_risk, s.tta_due_at, s.ttr_due_at, s.acknowledged_at, s.resolved_at
) AS sla
CROSS JOIN LATERAL (
    SELECT page.id::text AS alert_id, page.device_id, page.severity, page.message, page.metric, page.source,
           page.metadata, page.state, page.group_id::text AS group_id, page.duplicate_of IS NOT NULL AS is_duplicate,
           page.duplicate_of::text AS duplicate_of, page.escalate,
           page.assigned_to_user_id::text AS assigned_to_user_id, page.resolution, page.reported_by, page.occurred_at,
           page.created_at, s.acknowledged_at, s.resolved_at, sla
) AS shown
ORDER BY page.created_at DESC, page.id DESC;

-- name: count_by_class$
-- The exact total per severity and state, from the tallies.
SELECT COALESCE(sum(alerts), 0)::bigint FROM v_tallies
WHERE severity = ANY (:severities::alert_severity[]) AND state = ANY (:states::alert_state[]);

-- name: count_alerts$
-- The total up to where it is still counted, plus one.
SELECT count(*) FROM (
    SELECT 1 FROM alerts AS a
    WHERE (:device_id::uuid IS NULL OR a.device_id = :device_id::uuid)
        AND (:group_id::bigint IS NULL OR a.group_id = :group_id::bigint)
        AND (:metric::text IS NULL OR a.metric = :metric)
        AND (:is_any_class
             OR (a.severity = ANY (:severities::alert_severity[]) AND a.state = ANY (:states::alert_state[])))
        AND (:start_at::timestamptz IS NULL OR a.created_at >= :start_at::timestamptz)
        AND (:end_at::timestamptz IS NULL OR a.created_at < :end_at::timestamptz)
        AND (:text::text IS NULL OR strpos(lower(a.message), lower(:text)) > 0)
    LIMIT 10001
) AS counted;

-- name: estimate_alerts$
-- What the planner believes the total to be.
EXPLAIN (FORMAT JSON) SELECT 1 FROM alerts AS a
WHERE (:device_id::uuid IS NULL OR a.device_id = :device_id::uuid)
    AND (:group_id::bigint IS NULL OR a.group_id = :group_id::bigint)
    AND (:metric::text IS NULL OR a.metric = :metric)
    AND (:is_any_class
         OR (a.severity = ANY (:severities::alert_severity[]) AND a.state = ANY (:states::alert_state[])))
    AND (:start_at::timestamptz IS NULL OR a.created_at >= :start_at::timestamptz)
    AND (:end_at::timestamptz IS NULL OR a.created_at < :end_at::timestamptz)
    AND (:text::text IS NULL OR strpos(lower(a.message), lower(:text)) > 0);

-- name: add_note^
-- Keeps a note; no row where there is no such alert.
INSERT INTO alert_notes (alert_id, notes, written_by)
SELECT id, :notes, :written_by FROM alerts WHERE id = :alert_id
RETURNING id AS note_id, alert_id, notes, written_by, created_at;

-- name: list_history
-- Everything that happened to an alert, oldest first.
SELECT 'state' AS kind, s.created_at, s.changed_by AS by, s.previous_state, s.state, s.implied, s.notes, s.resolution,
       s.assigned_to_user_id, s.id AS position
FROM alert_states AS s WHERE s.alert_id = :alert_id
UNION ALL
SELECT 'note', n.created_at, n.written_by, NULL, NULL, NULL, n.notes, NULL, NULL, n.id
FROM alert_notes AS n WHERE n.alert_id = :alert_id
ORDER BY created_at, kind DESC, position;

-- name: list_open_in_group
-- The open alerts of a group and their states.
SELECT id, state FROM alerts WHERE group_id = :group_id AND state <> 'resolved' ORDER BY id;

-- name: list_states
-- The states of some alerts.
SELECT id, state FROM alerts WHERE id = ANY (:alert_ids::bigint[]);

-- name: list_tallies
-- Running totals per severity and state.
SELECT * FROM v_tallies;
