-- :layers layers of :width tasks; all tasks of a layer depend on all of the layer before.
CREATE TEMPORARY TABLE shape AS
SELECT array_agg(layer || '_' || place ORDER BY layer, place) AS names, NULL::jsonb AS depends_on
FROM generate_series(1, :layers) AS layer, generate_series(0, :width - 1) AS place;
INSERT INTO layers
SELECT array_agg((layer - 1) || '_' || place), array_agg(layer || '_' || place)
FROM generate_series(2, :layers) AS layer, generate_series(0, :width - 1) AS place
WHERE :edges
GROUP BY layer
ORDER BY layer;
