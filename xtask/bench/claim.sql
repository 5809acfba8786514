-- A task claimed and finished; a transaction each.
SELECT claim AS claim FROM workflow.claim_tasks('w1') \gset
SELECT workflow.complete_claim(:claim);
