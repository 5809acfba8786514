-- :parents tasks, and as many that depend on three of them each.
CREATE TEMPORARY TABLE shape AS
SELECT array_agg('p_' || n) || array_agg('c_' || n) AS names,
    jsonb_object_agg('c_' || n, (SELECT jsonb_agg('p_' || (n + other) % :parents) FROM unnest('{0,7,4001}'::int[]) AS other)) AS depends_on
FROM generate_series(0, :parents - 1) AS n
WHERE :edges;
