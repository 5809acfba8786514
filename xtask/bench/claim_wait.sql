-- A worker that waits for a task; it notes how long the task took to come here, from its transaction's beginning.
CALL workflow.wait_for_tasks('{arrival}', '1 s');
WITH taken AS (
    SELECT c.id FROM workflow.claim_tasks('w1', '{arrival}') AS c
)
INSERT INTO arrivals (milliseconds)
SELECT extract(epoch FROM clock_timestamp() - t.created_at) * 1000
FROM taken JOIN workflow.task_instances AS t USING (id);
