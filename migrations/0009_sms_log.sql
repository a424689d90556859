-- What the hourly limit of SMS counts, and who has opted out of them.

-- One row for each SMS that went out or may have: a place is taken before the provider is asked and given back when
-- it refuses. A page that is tried again keeps its place, so that an outage of the provider does not use up the hour.
CREATE TABLE sms_log (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    to_number       text NOT NULL,
    notification_id bigint,
    sent_at         timestamptz NOT NULL DEFAULT app_now(),
    CONSTRAINT sms_log_notification_unique UNIQUE (notification_id)
);
CREATE INDEX sms_log_to_number ON sms_log (to_number, sent_at);
CREATE INDEX sms_log_sent_at ON sms_log (sent_at);
COMMENT ON COLUMN sms_log.notification_id IS 'NULL for an SMS that belongs to no notification';

CREATE TABLE sms_opt_outs (
    to_number    text PRIMARY KEY,
    opted_out_at timestamptz NOT NULL DEFAULT app_now()
);
COMMENT ON TABLE sms_opt_outs IS 'numbers whose owner told the provider to stop; the next SMS that it takes in clears the mark';
