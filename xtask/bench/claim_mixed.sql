-- A task claimed and ended; one in fifty fails and is tried again a minute later.
SELECT claim AS claim FROM workflow.claim_tasks('w1') \gset
\set dice random(1, 50)
\if :dice = 1
SELECT workflow.fail_claim(:claim, 'exit 1', retry_after => '60 s');
\else
SELECT workflow.complete_claim(:claim);
\endif
