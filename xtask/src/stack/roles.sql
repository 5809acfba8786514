-- Login roles of a database: none is a superuser, so every rule holds for them. docker/roles.sh creates the same.
DO $$
DECLARE
    login text;
    membership text;
BEGIN
    FOR login, membership IN VALUES
        ('scheduler', 'workflow_writer'), ('server', 'workflow_writer'), ('admin', 'workflow_admin')
    LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN IN ROLE %I', login, membership);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            -- For another database of the cluster.
            NULL;
        END;
    END LOOP;
END
$$;
-- The server's maintenance creates partitions.
GRANT EXECUTE ON FUNCTION workflow.open_partitions(text) TO server;
-- Your tables beside the extension's.
GRANT CREATE ON SCHEMA public TO scheduler;
