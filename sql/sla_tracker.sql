-- name: list_targets
-- All targets, gravest first.
SELECT severity, target_tta, target_ttr FROM sla_targets ORDER BY severity DESC;

-- name: change_target!
-- Sets the targets of one severity; alerts that exist keep theirs.
UPDATE sla_targets
SET target_tta = :tta, target_ttr = :ttr, updated_at = app_now(), updated_by = :changed_by
WHERE severity = :severity::alert_severity;

-- name: report_compliance
-- Compliance per severity over alerts created in the range.
SELECT * FROM sla_compliance(:start_at::timestamptz, :end_at::timestamptz);

-- name: flag_sla_breaches^
-- Flags clocks that have run out, a batch at a time.
SELECT * FROM flag_sla_breaches(:limit);
