-- name: raise_alert^
-- Records one alert.
SELECT * FROM raise_alert(:device_id::uuid, :severity::alert_severity, :message, :metadata::jsonb, :metric, :source,
                          :occurred_at::timestamptz, :escalate, :reported_by, :key_class);

-- name: raise_prepared_alert^
-- Records one alert: the hot path, once prepare_raise_alert has been run on the connection.
EXECUTE raise_alert(:device_id, :severity, :message, :metadata, :metric, :source, :occurred_at, :escalate,
                    :reported_by, :key_class);

-- name: prepare_raise_alert#
-- Parsing and planning the hot statement anew costs a quarter of what it does: it is prepared once per connection.
PREPARE raise_alert (uuid, alert_severity, text, jsonb, text, text, timestamptz, boolean, text, text) AS
SELECT * FROM raise_alert($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

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
-- One alert with its clocks and its group.
SELECT d.*, to_jsonb(g) AS alert_group
FROM v_alert_details AS d JOIN v_alert_groups AS g USING (group_id)
WHERE d.alert_id = :alert_id;

-- name: list_alerts
-- A page in order of an index: that of the device, the group or the metric where one is named, else the newest.
SELECT d.*
FROM (
    SELECT a.id, a.created_at
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
JOIN v_alert_details AS d ON d.alert_id = page.id
ORDER BY page.created_at DESC, page.id DESC;

-- name: list_alerts_by_class
-- A page by severity and state. Each pair is read in order from its own stretch of alerts_severity_state_newest,
-- and the few rows that could make the page are merged; a filter over the newest would walk far for a rare pair.
SELECT d.*
FROM (
    SELECT a.id, a.created_at
    FROM unnest(:severities::alert_severity[]) AS wanted_severity (severity)
    CROSS JOIN unnest(:states::alert_state[]) AS wanted_state (state)
    CROSS JOIN LATERAL (
        SELECT a.id, a.created_at
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
JOIN v_alert_details AS d ON d.alert_id = page.id
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
