-- A worker that waits for a task; it notes how long ago the last parent has ended.
CALL workflow.wait_for_tasks('{arrival}', '1 s');
WITH taken AS (
    SELECT c.id FROM workflow.claim_tasks('w1', '{arrival}') AS c
)
INSERT INTO arrivals (milliseconds)
SELECT extract(epoch FROM clock_timestamp() - p.end_date) * 1000
FROM taken JOIN last_parents ON child = taken.id JOIN workflow.task_instances AS p ON p.id = parent;
