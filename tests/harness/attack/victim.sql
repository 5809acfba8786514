-- Run as the role victim: a run in progress and one that has finished, logs, and consumers.
DO $$
DECLARE
    dag uuid := workflow.create_dag('victim', tags => '["secret"]');
    run uuid := workflow.create_dag_run(dag, '2026-01-01', '{"password": "secret"}');
    done uuid := workflow.create_dag_run(dag, '2026-01-02');
    task record;
BEGIN
    FOR task IN SELECT * FROM workflow.create_task_instances(run, '{running,success,queued}') LOOP
        IF task.task_id <> 'queued' THEN
            PERFORM workflow.transition_task_instance(task.id, 'queued', 'running', '{"password": "secret"}');
            PERFORM workflow.append_task_log(task.id, 'secret');
        END IF;
        IF task.task_id = 'success' THEN
            PERFORM workflow.transition_task_instance(task.id, 'running', 'success');
        END IF;
    END LOOP;
    PERFORM workflow.transition_dag_run(run, 'queued', 'running');
    PERFORM workflow.transition_dag_run(done, 'queued', 'running');
    PERFORM workflow.transition_dag_run(done, 'running', 'success');
END
$$;
SELECT workflow.create_consumer('relay', true), workflow.create_consumer('leased', true);
SELECT workflow.save_checkpoint('relay', '{1,1}');
SELECT workflow.lease_consumer('leased', 'victim', '1 hour');
