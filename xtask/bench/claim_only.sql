-- A task claimed.
SELECT claim FROM workflow.claim_tasks('w1');
