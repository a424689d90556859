-- name: get_state$
-- The current state of one alert.
SELECT state FROM alerts WHERE id = :alert_id;

-- name: list_open_originals
-- The open alerts of a group that are no duplicates, oldest first. The caller holds the group's lock.
SELECT id, state FROM alerts
WHERE group_id = :group_id AND duplicate_of IS NULL AND state <> 'resolved'
ORDER BY id;

-- name: insert_states!
-- Records one step of each alert; the trigger checks it and carries it on.
INSERT INTO alert_states (alert_id, state, implied, changed_by, actor_kind, notes, resolution, assigned_to_user_id)
SELECT id, :state::alert_state, :implied, :changed_by, :actor_kind::alert_actor_kind, :notes,
       :resolution::alert_resolution, :assigned_to_user_id::bigint
FROM unnest(:alert_ids::bigint[]) AS id;
