-- name: set_window$
-- Sets the grouping window of this transaction.
SELECT set_config('app.window_seconds', :seconds, true);

-- name: begin_savepoint#
-- Marks the point to which a failed escalation goes back.
SAVEPOINT before_escalation;

-- name: return_to_savepoint#
-- Undoes a failed escalation, and nothing before it.
ROLLBACK TO SAVEPOINT before_escalation;

-- name: is_news$
-- Whether an anomaly is to page: it did not come late, nobody has its group in hand, and the group has not paged yet, or
-- with a milder severity. The alert's transaction holds the group's lock.
SELECT a.occurred_at >= a.created_at - interval '1 hour' AND a.state = 'new' AND g.handled_alerts = 0
    AND NOT EXISTS (
        SELECT FROM escalations AS e
        WHERE e.device_id = a.device_id AND e.metric = a.metric AND e.key_class = a.key_class AND e.ended_at IS NULL)
    AND a.severity > COALESCE((SELECT max(e.severity) FROM escalations AS e WHERE e.group_id = g.id), 'info')
FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id
WHERE a.id = :alert_id;
