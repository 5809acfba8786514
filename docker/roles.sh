#!/bin/bash
# Runs once, in the new database: roles for the programs of compose.yaml, which need not be superusers.
set -eu

psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --set=ON_ERROR_STOP=1 \
    --set=server_password="$SERVER_PASSWORD" --set=scheduler_password="$SCHEDULER_PASSWORD" <<'SQL'
CREATE ROLE server LOGIN PASSWORD :'server_password';
CREATE ROLE scheduler LOGIN PASSWORD :'scheduler_password';
GRANT USAGE ON SCHEMA workflow TO server, scheduler;

-- What workflow-server serve needs: it reads everything, and relays.
-- (Where the extension has a role for that, GRANT it here instead of the next two.)
GRANT SELECT ON workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history,
    workflow.state_machine, workflow.state_counts, workflow.consumer_lag, workflow.notifier TO server;
GRANT EXECUTE ON FUNCTION workflow.current_position, workflow.follow_events, workflow.create_consumer, workflow.read_events,
    workflow.ack_events, workflow.drop_consumer, workflow.lease_consumer, workflow.release_consumer,
    workflow.save_checkpoint, workflow.rewind_consumer, workflow.fold_state_counts TO server;

-- What workflow-server replay needs: it creates and moves. (The same.)
GRANT SELECT, INSERT, UPDATE ON workflow.dags TO scheduler;
GRANT EXECUTE ON FUNCTION workflow.create_dag_run, workflow.create_task_instances TO scheduler;
GRANT SELECT, UPDATE (state) ON workflow.dag_runs, workflow.task_instances TO scheduler;
GRANT SELECT ON workflow.state_history TO scheduler;
GRANT SELECT, INSERT ON workflow.task_logs TO scheduler;
SQL
