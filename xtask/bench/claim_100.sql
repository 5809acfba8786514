-- 100 tasks claimed and finished; a transaction each.
SELECT jsonb_agg(jsonb_build_object('claim', claim, 'state', 'success')) AS outcomes FROM workflow.claim_tasks('w1', max => 100) \gset
SELECT count(*) FROM workflow.finish_claims(:outcomes);
