-- First of all: a role that owns the schema, or creates in it, could have left objects there for this script to run.

DO $$
DECLARE
    problem text := (
        SELECT CASE
            -- The installing role is a superuser, too.
            WHEN NOT o.rolsuper
                THEN pg_catalog.format('role "%s" owns it', o.rolname)
            WHEN EXISTS (
                SELECT FROM pg_catalog.aclexplode(n.nspacl) AS a
                LEFT JOIN pg_catalog.pg_roles AS g ON g.oid OPERATOR(pg_catalog.=) a.grantee
                WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' AND g.rolsuper IS NOT TRUE
                    AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner)
                THEN 'other roles may create objects in it'
            WHEN EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
                    AND d.refobjid OPERATOR(pg_catalog.=) n.oid
                    AND d.classid OPERATOR(pg_catalog.<>) 'pg_catalog.pg_extension'::pg_catalog.regclass)
                THEN 'it is not empty'
        END
        FROM pg_catalog.pg_namespace AS n
        JOIN pg_catalog.pg_roles AS o ON o.oid OPERATOR(pg_catalog.=) n.nspowner
        WHERE n.nspname OPERATOR(pg_catalog.=) 'workflow');
BEGIN
    -- An event is JSON, and JSON is UTF-8: the name of a role, say, could not be sent.
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE feature_not_supported USING
            MESSAGE = pg_catalog.format('cannot create extension pg_workflow in a database with encoding %s', pg_catalog.getdatabaseencoding()),
            DETAIL = pg_catalog.jsonb_build_object('encoding', pg_catalog.getdatabaseencoding())::pg_catalog.text,
            HINT = 'Create the database with ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = pg_catalog.format('cannot create extension pg_workflow in the schema "workflow": %s', problem),
            DETAIL = pg_catalog.jsonb_build_object('schema', 'workflow', 'problem', problem)::pg_catalog.text,
            HINT = 'Drop or rename this schema. CREATE EXTENSION creates it.';
    END IF;
END
$$;
