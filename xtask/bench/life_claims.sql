-- A task's life: created in a queue, claimed, finished; a transaction each.
\set k :k + 1
SELECT id AS id FROM workflow.create_task_instances((SELECT id FROM runs WHERE n = :client_id), ARRAY['life_' || :k], queue => 'default') \gset
SELECT claim AS claim FROM workflow.claim_tasks('w1') \gset
SELECT workflow.complete_claim(:claim);
