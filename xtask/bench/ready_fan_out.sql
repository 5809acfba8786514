-- A task, and :children that depend on it.
CREATE TEMPORARY TABLE shape AS
SELECT '{root}'::text[] || array_agg('c_' || n) AS names, jsonb_object_agg('c_' || n, '["root"]'::jsonb) AS depends_on
FROM generate_series(1, :children) AS n
WHERE :edges;
