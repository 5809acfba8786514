-- First of all: another role that creates in the schema could have left objects there for this script to run.
DO $$
DECLARE
    problem text := (
        SELECT CASE
            WHEN n.nspowner OPERATOR(pg_catalog.<>) e.extowner AND NOT o.rolsuper
                THEN pg_catalog.format('role "%s" owns it', o.rolname)
            WHEN EXISTS (
                SELECT FROM pg_catalog.aclexplode(n.nspacl) AS a
                LEFT JOIN pg_catalog.pg_roles AS g ON g.oid OPERATOR(pg_catalog.=) a.grantee
                WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' AND g.rolsuper IS NOT TRUE
                    AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner)
                THEN 'other roles may create objects in it'
            WHEN EXISTS (
                SELECT FROM pg_catalog.pg_proc AS p
                JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) p.proowner
                WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid AND NOT r.rolsuper
                    AND p.proowner OPERATOR(pg_catalog.<>) e.extowner)
                THEN 'it has functions of other roles'
        END
        FROM pg_catalog.pg_extension AS e
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
        JOIN pg_catalog.pg_roles AS o ON o.oid OPERATOR(pg_catalog.=) n.nspowner
        WHERE e.extname OPERATOR(pg_catalog.=) 'pg_workflow');
BEGIN
    IF problem IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = pg_catalog.format('cannot update pg_workflow in the schema "workflow": %s', problem),
            DETAIL = pg_catalog.jsonb_build_object('schema', 'workflow', 'problem', problem)::pg_catalog.text,
            HINT = 'Make a superuser the owner of the schema, revoke CREATE on it from other roles, and drop their functions there.';
    END IF;
END
$$;

