-- :layers layers of :width tasks; each task depends on :parents tasks of the layer before.
CREATE TEMPORARY TABLE shape AS
SELECT array_agg(layer || '_' || place ORDER BY layer, place) AS names,
    CASE WHEN :edges THEN jsonb_object_agg(layer || '_' || place, p.names) FILTER (WHERE layer > 1) END AS depends_on
FROM generate_series(1, :layers) AS layer, generate_series(0, :width - 1) AS place, LATERAL (
    SELECT jsonb_agg((layer - 1) || '_' || (place + n) % :width) AS names FROM generate_series(0, :parents - 1) AS n
) AS p;
