-- name: append_reading^
-- Appends one reading to the log of its series: the hot path.
SELECT * FROM append_reading(:device_id::uuid, :metric::text, :read_at::timestamptz, :value::float8,
                             :activation::int8, :number::int8, :since::timestamptz, :most_missed::int8);

-- name: append_readings
-- Appends readings of several series; a row for each series that was appended to.
SELECT * FROM append_readings(:device_ids::uuid[], :metrics::text[], :activations::bigint[], :numbers::bigint[],
                              :sinces::timestamptz[], :most_missed, :places::integer[], :read_ats::timestamptz[],
                              :values::double precision[]);
