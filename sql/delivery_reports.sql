-- name: lock_escalation$
-- Locks the escalation of an SMS, which comes before its notifications in the lock order; NULL where there is no such SMS.
SELECT e.id FROM escalations AS e
WHERE e.id = (SELECT n.escalation_id FROM notifications AS n WHERE n.id = :notification_id AND n.channel = 'sms')
FOR NO KEY UPDATE;

-- name: lock_notification^
-- What is known of a notification, locked.
SELECT id, escalation_id, pass, tier, address, provider_id, provider_status FROM notifications
WHERE id = :notification_id
FOR NO KEY UPDATE;

-- name: record_report!
-- Records what became of a notification. It may still stand as on its way, or as about to be tried again after a lost
-- answer: whatever Twilio reports on, it has taken in, and nothing is left to be done with it.
UPDATE notifications
SET status = :status::notification_status, provider_id = :provider_id, provider_status = :provider_status,
    due_at = NULL, sent_at = COALESCE(sent_at, app_now()),
    delivered_at = CASE :status WHEN 'delivered' THEN app_now() ELSE delivered_at END, error = :error,
    segments = COALESCE(:segments, segments), price = COALESCE(:price, price),
    price_unit = COALESCE(:price_unit, price_unit)
WHERE id = :notification_id;

-- name: hasten_escalation$
-- Brings the next tier at once where nothing of this one can arrive any more.
SELECT hasten_escalation(:escalation_id, :pass_number, :tier);
