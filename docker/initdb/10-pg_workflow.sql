-- In the database that POSTGRES_DB names, when it is created.
CREATE EXTENSION pg_workflow;
