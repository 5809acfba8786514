#!/bin/bash
# Runs once, in the new database: roles for the programs of compose.yaml, which need not be superusers.
set -eu

psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --set=ON_ERROR_STOP=1 \
    --set=server_password="$SERVER_PASSWORD" --set=scheduler_password="$SCHEDULER_PASSWORD" <<'SQL'
-- "server" is for `workflow-server serve`, "scheduler" for `replay` and your programs.
CREATE ROLE server LOGIN PASSWORD :'server_password' IN ROLE workflow_writer;
CREATE ROLE scheduler LOGIN PASSWORD :'scheduler_password' IN ROLE workflow_writer;
SQL
