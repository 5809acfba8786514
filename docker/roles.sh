#!/bin/bash
# Runs once, in the new database: login roles, as those of `cargo xtask up`. None is a superuser.
set -eu

psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --set=ON_ERROR_STOP=1 \
    --set=server_password="$SERVER_PASSWORD" --set=scheduler_password="$SCHEDULER_PASSWORD" \
    --set=admin_password="$ADMIN_PASSWORD" <<'SQL'
-- "server" is for `workflow-server serve`, "scheduler" for `replay` and your programs, "admin" deletes and purges.
CREATE ROLE server LOGIN PASSWORD :'server_password' IN ROLE workflow_writer;
CREATE ROLE scheduler LOGIN PASSWORD :'scheduler_password' IN ROLE workflow_writer;
CREATE ROLE admin LOGIN PASSWORD :'admin_password' IN ROLE workflow_admin;
-- The server's maintenance creates partitions.
GRANT EXECUTE ON FUNCTION workflow.open_partitions(text) TO server;
-- Your tables beside the extension's.
GRANT CREATE ON SCHEMA public TO scheduler;
SQL
