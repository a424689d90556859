-- name: list_unpriced
-- SMS whose price the provider may know by now.
SELECT id AS notification_id, provider_id
FROM notifications
WHERE channel = 'sms' AND price IS NULL AND provider_id IS NOT NULL
    AND sent_at BETWEEN app_now() - interval '30 minutes' AND app_now() - interval '1 minute'
ORDER BY sent_at
LIMIT 50;

-- name: record_price!
-- Keeps what an SMS cost.
UPDATE notifications SET price = :price, price_unit = :price_unit, segments = COALESCE(:segments, segments)
WHERE id = :notification_id;
