-- name: lock_recipient$
-- Lets one process at a time count a recipient's messages, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('sms ' || :to_number, 0));

-- name: count_recent$
-- How many messages a recipient was sent within the hour, that of the notification itself left out.
SELECT count(*) FROM sms_log
WHERE to_number = :to_number
    AND sent_at > app_now() - interval '1 hour'
    AND (:notification_id::bigint IS NULL OR notification_id IS DISTINCT FROM :notification_id::bigint);

-- name: take_place$
-- Takes a place of the hour and returns its id; a notification has one place, however often it is tried.
INSERT INTO sms_log (to_number, notification_id) VALUES (:to_number, :notification_id::bigint)
ON CONFLICT (notification_id) DO UPDATE SET to_number = EXCLUDED.to_number, sent_at = app_now()
RETURNING id;

-- name: give_place_back!
-- Forgets a message that did not go out.
DELETE FROM sms_log WHERE id = :place_id;

-- name: mark_opted_out!
-- Marks a number whose owner told the provider to stop.
INSERT INTO sms_opt_outs (to_number) VALUES (:to_number) ON CONFLICT (to_number) DO NOTHING;

-- name: clear_opt_out!
-- Takes the mark away from a number that a message was taken in for.
DELETE FROM sms_opt_outs WHERE to_number = :to_number;

-- name: list_opted_out
-- Which of some numbers are marked, and since when.
SELECT to_number, opted_out_at FROM sms_opt_outs WHERE to_number = ANY(:to_numbers);

-- name: forget_sms_log!
-- Forgets messages that no limit counts any more.
DELETE FROM sms_log WHERE sent_at <= app_now() - interval '1 day';
