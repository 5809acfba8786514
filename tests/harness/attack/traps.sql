-- Run as database_owner: code of an attacker under the names of PostgreSQL's. It does the same, and tells the log if a
-- superuser runs it.
CREATE SCHEMA evil;
GRANT USAGE, CREATE ON SCHEMA evil TO PUBLIC;

CREATE FUNCTION evil.trap()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog
AS $$
BEGIN
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = CURRENT_USER) THEN
        RAISE LOG 'sprung trap: code of an attacker runs as %', CURRENT_USER;
    END IF;
    RETURN true;
END
$$;

DO $do$
DECLARE
    trap record;
BEGIN
    FOR trap IN
        SELECT * FROM (VALUES
            ('same(a text, b text)', 'boolean', 'a OPERATOR(pg_catalog.=) b'),
            ('other(a text, b text)', 'boolean', 'a OPERATOR(pg_catalog.<>) b'),
            ('less(a bigint, b bigint)', 'boolean', 'a OPERATOR(pg_catalog.<) b'),
            ('plus(a bigint, b bigint)', 'bigint', 'a OPERATOR(pg_catalog.+) b'),
            ('field(a jsonb, b text)', 'text', 'a OPERATOR(pg_catalog.->>) b'),
            ('now()', 'timestamptz', 'pg_catalog.now()'),
            ('clock_timestamp()', 'timestamptz', 'pg_catalog.clock_timestamp()'),
            ('jsonb_typeof(a jsonb)', 'text', 'pg_catalog.jsonb_typeof(a)'),
            ('char_length(a text)', 'integer', 'pg_catalog.char_length(a)'),
            ('set_config(a text, b text, c boolean)', 'text', 'pg_catalog.set_config(a, b, c)'),
            ('current_setting(a text)', 'text', 'pg_catalog.current_setting(a)'),
            ('pg_current_snapshot()', 'pg_snapshot', 'pg_catalog.pg_current_snapshot()'),
            ('pg_visible_in_snapshot(a xid8, b pg_snapshot)', 'boolean', 'pg_catalog.pg_visible_in_snapshot(a, b)'),
            ('left(a text, b integer)', 'text', 'pg_catalog.left(a, b)')
        ) AS v (signature, result, body)
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%s RETURNS %s LANGUAGE plpgsql AS %L', trap.signature, trap.result,
            format('BEGIN PERFORM evil.trap(); RETURN %s; END', trap.body));
    END LOOP;
END
$do$;

CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.other);
CREATE OPERATOR evil.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.less);
CREATE OPERATOR evil.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.plus);
CREATE OPERATOR evil.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = evil.field);

-- Types whose casts and checks run code.
CREATE TYPE evil.state AS ENUM ('queued', 'running');
CREATE FUNCTION evil.to_text(a evil.state) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.trap(); RETURN 'queued'; END $$;
CREATE CAST (evil.state AS text) WITH FUNCTION evil.to_text(evil.state) AS ASSIGNMENT;
CREATE DOMAIN evil.name AS text CHECK (evil.trap());
CREATE DOMAIN evil.number AS bigint CHECK (evil.trap());
GRANT USAGE ON TYPE evil.state, evil.name, evil.number TO PUBLIC;
