-- :parents tasks, and one that depends on all of them.
CREATE TEMPORARY TABLE shape AS
SELECT array_agg('p_' || n) || '{child}'::text[] AS names,
    CASE WHEN :edges THEN jsonb_build_object('child', jsonb_agg('p_' || n)) END AS depends_on
FROM generate_series(1, :parents) AS n;
