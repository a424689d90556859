-- From an alert to the people: escalations, their steps, and the notifications that carry them out.

CREATE TYPE escalation_status AS ENUM ('pending', 'in_progress', 'completed', 'cancelled');
CREATE TYPE notification_status AS ENUM (
    'pending', 'sending', 'sent', 'delivered', 'failed', 'rate_limited', 'cancelled');

-- A timer is a row: due_at says when the worker has to do something next, namely to take step (next_pass,
-- next_tier) or, where that is empty, to end the escalation as unheard. It runs while ended_at is empty.
CREATE TABLE escalations (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id     bigint NOT NULL,
    group_id     bigint NOT NULL,
    policy_id    bigint NOT NULL,
    device_id    uuid NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT app_now(),
    ended_at     timestamptz,
    due_at       timestamptz,
    pass         integer NOT NULL DEFAULT 1,
    current_tier integer,
    next_pass    integer,
    next_tier    integer,
    status       escalation_status NOT NULL DEFAULT 'pending',
    severity     alert_severity NOT NULL,
    metric       text NOT NULL,
    key_class    text NOT NULL,
    ended_by     text,
    policy_name  text NOT NULL,
    rules        jsonb NOT NULL
) WITH (fillfactor = 80);
COMMENT ON COLUMN escalations.alert_id IS 'the alert that started it';
COMMENT ON COLUMN escalations.policy_id IS 'for the record: the policy may have been changed or deleted since, the rules are kept';
COMMENT ON COLUMN escalations.severity IS 'the severity that it pages with';
COMMENT ON COLUMN escalations.current_tier IS 'the last tier taken, counted from 1; NULL before the first';
COMMENT ON COLUMN escalations.ended_by IS 'who cancelled it';

-- The promise of escalation: at most one runs per key, under any concurrency.
CREATE UNIQUE INDEX escalations_one_running_per_key ON escalations (device_id, metric, key_class)
    WHERE ended_at IS NULL;
CREATE INDEX escalations_due ON escalations (due_at) WHERE ended_at IS NULL;
CREATE INDEX escalations_group ON escalations (group_id);
CREATE INDEX escalations_status_newest ON escalations (status, started_at DESC, id DESC);
CREATE INDEX escalations_device_newest ON escalations (device_id, started_at DESC, id DESC);

CREATE TABLE escalation_steps (
    escalation_id bigint NOT NULL REFERENCES escalations (id),
    pass          integer NOT NULL,
    tier          integer NOT NULL,
    taken_at      timestamptz NOT NULL DEFAULT app_now(),
    unreachable   jsonb NOT NULL,
    PRIMARY KEY (escalation_id, pass, tier)
);
COMMENT ON COLUMN escalation_steps.unreachable IS 'the recipients that could not be reached, each with the reason';

-- The outbox. due_at says when the row wants attention: the next attempt while it is pending, the end of the
-- lease while it is being sent; NULL once it is done with.
CREATE TABLE notifications (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    escalation_id     bigint NOT NULL REFERENCES escalations (id),
    alert_id          bigint NOT NULL,
    user_id           bigint,
    created_at        timestamptz NOT NULL DEFAULT app_now(),
    due_at            timestamptz DEFAULT app_now(),
    give_up_at        timestamptz,
    sent_at           timestamptz,
    delivered_at      timestamptz,
    pass              integer NOT NULL,
    tier              integer NOT NULL,
    attempts          integer NOT NULL DEFAULT 0,
    segments          integer,
    status            notification_status NOT NULL DEFAULT 'pending',
    may_have_gone_out boolean NOT NULL DEFAULT false,
    is_setting_fault  boolean NOT NULL DEFAULT false,
    channel           text NOT NULL,
    address           text NOT NULL,
    recipient         text NOT NULL,
    provider_id       text,
    provider_status   text,
    price             numeric,
    price_unit        text,
    error             text,
    CONSTRAINT notifications_one_per_address UNIQUE (escalation_id, pass, tier, channel, address)
) WITH (fillfactor = 70);
COMMENT ON COLUMN notifications.recipient IS 'as the policy names it: an address, user:ID or oncall:ID';
COMMENT ON COLUMN notifications.give_up_at IS 'when temporary failures are no longer answered by another attempt';
COMMENT ON COLUMN notifications.may_have_gone_out IS
    'an answer was lost: the provider is asked before this is sent again';
COMMENT ON COLUMN notifications.is_setting_fault IS 'it failed by a fault of the settings, which stops its whole channel';
CREATE INDEX notifications_due ON notifications (channel, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX notifications_sending ON notifications (escalation_id) WHERE status = 'sending';
CREATE INDEX notifications_channel_status ON notifications (channel, status, created_at);
CREATE INDEX notifications_setting_faults ON notifications (channel, created_at) WHERE is_setting_fault;
CREATE INDEX notifications_unpriced ON notifications (sent_at)
    WHERE channel = 'sms' AND sent_at IS NOT NULL AND price IS NULL;

ALTER TABLE alert_groups
    ADD COLUMN handled_alerts occurrence_total NOT NULL DEFAULT 0,
    ADD COLUMN escalation_id bigint;
COMMENT ON COLUMN alert_groups.handled_alerts IS 'its originals that are acknowledged or investigating';
COMMENT ON COLUMN alert_groups.escalation_id IS 'the last escalation of its key that spoke for this group';
UPDATE alert_groups AS g SET handled_alerts = n.handled
FROM (SELECT group_id, count(*) AS handled FROM alerts
      WHERE state IN ('acknowledged', 'investigating') AND duplicate_of IS NULL GROUP BY group_id) AS n
WHERE g.id = n.group_id;

-- The shape of rules. The API checks far more; this keeps what plain SQL writes from stopping alerts or the engine.
CREATE FUNCTION are_escalation_rules(p_rules jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(p_rules -> 'tiers') = 'array' THEN
        jsonb_typeof(p_rules -> 'severity_match') = 'array'
        AND (p_rules -> 'repeat' IS NULL OR (p_rules -> 'repeat')::text ~ '^[0-9]{1,3}$')
        AND (SELECT COALESCE(bool_and(COALESCE(
                 (t -> 'delay_minutes')::text ~ '^[0-9]{1,5}$'
                 AND jsonb_typeof(t -> 'channels') = 'array' AND jsonb_typeof(t -> 'recipients') = 'array', false)), false)
             FROM jsonb_array_elements(p_rules -> 'tiers') AS t)
    ELSE false END;
$$;
ALTER TABLE escalation_policies ADD CONSTRAINT escalation_policies_rules_shape CHECK (are_escalation_rules(rules));

-- The policy for a severity: enabled, of the highest priority, then the older.
CREATE FUNCTION find_escalation_policy(p_severity alert_severity) RETURNS SETOF escalation_policies
LANGUAGE sql STABLE AS $$
    SELECT * FROM escalation_policies
    WHERE enabled AND rules -> 'severity_match' ? p_severity::text
    ORDER BY priority DESC, id
    LIMIT 1;
$$;

-- Starts the escalation of an alert's key by the rules of a policy as they are now, and returns its id: that of the
-- running one where the key has one already. The caller holds the group's lock. A first tier other than 1 is due at
-- once; the tiers after it keep their minutes.
CREATE FUNCTION start_escalation(
    p_alert alerts, p_policy escalation_policies, p_first_tier integer DEFAULT 1
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint;
BEGIN
    LOOP
        INSERT INTO escalations (alert_id, group_id, policy_id, device_id, due_at, next_pass, next_tier, severity,
                                 metric, key_class, policy_name, rules)
        VALUES (p_alert.id, p_alert.group_id, p_policy.id, p_alert.device_id,
                app_now() + make_interval(mins => CASE p_first_tier
                    WHEN 1 THEN (p_policy.rules #>> '{tiers,0,delay_minutes}')::integer ELSE 0 END),
                1, p_first_tier, p_alert.severity, p_alert.metric, p_alert.key_class, p_policy.name, p_policy.rules)
        ON CONFLICT (device_id, metric, key_class) WHERE ended_at IS NULL DO NOTHING
        RETURNING id INTO v_id;
        EXIT WHEN FOUND;
        -- Not found where it has ended between the two statements: the next round starts one.
        SELECT id INTO v_id FROM escalations
        WHERE device_id = p_alert.device_id AND metric = p_alert.metric AND key_class = p_alert.key_class
            AND ended_at IS NULL;
        EXIT WHEN FOUND;
    END LOOP;
    UPDATE alert_groups SET escalation_id = v_id WHERE id = p_alert.group_id;
    RETURN v_id;
END $$;

-- Pages for an alert by the policy for its severity; nothing happens where there is none.
CREATE FUNCTION page_for_alert(p_alert alerts) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_policy escalation_policies;
BEGIN
    SELECT * INTO v_policy FROM find_escalation_policy(p_alert.severity);
    IF FOUND THEN
        PERFORM start_escalation(p_alert, v_policy);
    END IF;
END $$;

-- Whether an alert is one that may page at all: new, meant to, and not uploaded late.
CREATE FUNCTION may_page(p_alert alerts) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_alert.escalate AND p_alert.state = 'new' AND p_alert.occurred_at >= p_alert.created_at - interval '1 hour';

-- Whether an alert that arrives in a group that was there before finds it in nobody's hands. A duplicate is news only
-- once the last escalation ran out unheard and people have been left in peace for a while.
CREATE FUNCTION awaits_page(p_group_id bigint, p_is_duplicate boolean) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT g.handled_alerts = 0 AND (e.id IS NULL OR e.ended_at IS NOT NULL)
        AND (NOT p_is_duplicate OR COALESCE(
            e.status = 'completed' AND e.ended_at <= app_now() - make_interval(
                mins => COALESCE(NULLIF(current_setting('app.renotify_minutes', true), ''), '60')::integer), false))
    FROM alert_groups AS g LEFT JOIN escalations AS e ON e.id = g.escalation_id
    WHERE g.id = p_group_id;
$$;

-- Ends the running escalation of a key and takes back every notification that is not on its way yet. Two statements: the
-- second has to see what a step has written for whose end the first one waited. An escalation that has ended leaves
-- nothing to be sent: the engine ends none before.
CREATE FUNCTION cancel_escalation(p_device_id uuid, p_metric text, p_key_class text, p_by text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint;
BEGIN
    UPDATE escalations SET status = 'cancelled', ended_at = app_now(), due_at = NULL, ended_by = p_by
    WHERE device_id = p_device_id AND metric = p_metric AND key_class = p_key_class AND ended_at IS NULL
    RETURNING id INTO v_id;
    IF FOUND THEN
        UPDATE notifications SET status = 'cancelled', due_at = NULL
        WHERE escalation_id = v_id AND status = 'pending';
    END IF;
END $$;

-- Pages for what a resolution left behind in nobody's hands: the gravest new alert of the group, else of another group of
-- the key whose escalation a step on this one had ended. That group is locked before anything is written, as an arrival
-- in it would; of two resolutions that want each other's group one is tried again.
CREATE FUNCTION page_for_left_behind(p_group_id bigint, p_device_id uuid, p_metric text, p_key_class text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_alert alerts;
BEGIN
    SELECT a.* INTO v_alert
    FROM alert_groups AS g JOIN alerts AS a ON a.group_id = g.id
    WHERE g.id = p_group_id AND g.open_alerts > 0 AND g.handled_alerts = 0 AND a.duplicate_of IS NULL AND may_page(a)
    ORDER BY a.severity DESC, a.id
    LIMIT 1;
    IF NOT FOUND THEN
        SELECT a.* INTO v_alert
        FROM alert_groups AS g
        JOIN escalations AS e ON e.id = g.escalation_id AND e.status = 'cancelled'
        JOIN alerts AS a ON a.group_id = g.id
        WHERE g.device_id = p_device_id AND g.metric = p_metric AND g.key_class = p_key_class
            AND g.first_occurrence_at > app_now() - interval '1 day'
            AND g.id <> p_group_id AND g.open_alerts > 0 AND g.handled_alerts = 0
            AND a.duplicate_of IS NULL AND may_page(a)
        ORDER BY a.severity DESC, a.id
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM 1 FROM alert_groups AS g WHERE g.id = v_alert.group_id AND g.handled_alerts = 0 FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM page_for_alert(v_alert);
    END IF;
END $$;

-- Brings the next tier at once where every notification of the current one has failed. The caller holds the lock of
-- the escalation, so that of two that fail together one sees the other.
CREATE FUNCTION hasten_escalation(p_escalation_id bigint, p_pass integer, p_tier integer) RETURNS void
LANGUAGE sql AS $$
    UPDATE escalations AS e SET due_at = LEAST(e.due_at, app_now())
    WHERE e.id = p_escalation_id AND e.ended_at IS NULL AND e.next_tier IS NOT NULL
        AND e.pass = p_pass AND e.current_tier = p_tier
        AND NOT EXISTS (
            SELECT FROM notifications AS n
            WHERE n.escalation_id = e.id AND n.pass = p_pass AND n.tier = p_tier
                AND n.status NOT IN ('failed', 'rate_limited', 'cancelled'));
$$;

-- Records that an attempt will be followed by no other: failed or rate_limited. Nothing happens where somebody else
-- has taken the notification over since.
CREATE FUNCTION fail_notification(
    p_id bigint, p_attempt integer, p_status notification_status, p_error text, p_is_setting_fault boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    n notifications;
BEGIN
    SELECT * INTO n FROM notifications WHERE id = p_id;
    PERFORM 1 FROM escalations WHERE id = n.escalation_id FOR NO KEY UPDATE;
    UPDATE notifications
    SET status = p_status, error = p_error, due_at = NULL, is_setting_fault = p_is_setting_fault
    WHERE id = p_id AND attempts = p_attempt AND status = 'sending';
    IF FOUND THEN
        PERFORM hasten_escalation(n.escalation_id, n.pass, n.tier);
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- Records that an attempt failed and when the next one is due; none is where the escalation was cancelled meanwhile.
CREATE FUNCTION retry_notification(
    p_id bigint, p_attempt integer, p_due_at timestamptz, p_error text, p_may_have_gone_out boolean
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_status escalation_status;
BEGIN
    SELECT e.status INTO v_status FROM escalations AS e
    WHERE e.id = (SELECT escalation_id FROM notifications WHERE id = p_id) FOR SHARE;
    UPDATE notifications
    SET status = CASE v_status WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END::notification_status,
        due_at = CASE v_status WHEN 'cancelled' THEN NULL ELSE p_due_at END,
        error = p_error, may_have_gone_out = may_have_gone_out OR p_may_have_gone_out
    WHERE id = p_id AND attempts = p_attempt AND status = 'sending';
END $$;

-- What people call a device: the newest name that its alerts brought along.
CREATE FUNCTION find_device_name(p_alert alerts) RETURNS text
LANGUAGE sql STABLE
RETURN COALESCE(p_alert.metadata ->> 'device_name', (
    SELECT recent.metadata ->> 'device_name'
    FROM (SELECT a.metadata, a.created_at, a.id FROM alerts AS a WHERE a.device_id = p_alert.device_id
          ORDER BY a.created_at DESC, a.id DESC LIMIT 50) AS recent
    WHERE recent.metadata ->> 'device_name' IS NOT NULL
    ORDER BY recent.created_at DESC, recent.id DESC LIMIT 1));

-- Escalations as the API shows them.
CREATE VIEW v_escalations AS
SELECT e.id AS escalation_id, e.alert_id, e.group_id, e.device_id::text AS device_id, e.metric, e.severity, e.policy_id,
       e.policy_name, e.status, e.pass, e.current_tier,
       CASE WHEN e.next_tier IS NOT NULL THEN e.due_at END AS next_tier_at, e.started_at, e.ended_at, e.ended_by
FROM escalations AS e;

-- Which escalations concern an alert: those that began for its group or spoke for it, while the alert was open.
CREATE VIEW v_alert_escalations AS
SELECT a.id AS alert_id, e.id AS escalation_id
FROM alerts AS a
JOIN alert_slas AS s ON s.alert_id = a.id
JOIN alert_groups AS g ON g.id = a.group_id
CROSS JOIN LATERAL (
    SELECT e.id, e.alert_id, e.started_at, e.ended_at FROM escalations AS e WHERE e.group_id = g.id
    UNION
    SELECT e.id, e.alert_id, e.started_at, e.ended_at FROM escalations AS e WHERE e.id = g.escalation_id
) AS e
WHERE e.alert_id = a.id
    OR ((e.ended_at IS NULL OR e.ended_at >= a.created_at) AND (s.resolved_at IS NULL OR e.started_at < s.resolved_at));

-- The channels that were ever used, found in leaps through an index rather than by reading every notification.
CREATE VIEW v_notification_channels AS
WITH RECURSIVE used AS (
    SELECT min(channel) AS channel FROM notifications
    UNION ALL
    SELECT (SELECT min(n.channel) FROM notifications AS n WHERE n.channel > used.channel)
    FROM used WHERE used.channel IS NOT NULL
)
SELECT channel FROM used WHERE channel IS NOT NULL;

-- Since when a number has opted out of SMS; NULL where it has not.
CREATE FUNCTION sms_opted_out_at(p_number text) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN (SELECT o.opted_out_at FROM sms_opt_outs AS o WHERE o.to_number = p_number);
