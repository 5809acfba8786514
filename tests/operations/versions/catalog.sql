-- Every object of the schema workflow, a line each, without values that depend on the time of its creation.
WITH relation AS (
    SELECT c.* FROM pg_class AS c WHERE c.relnamespace = 'workflow'::regnamespace
), extension AS (
    SELECT e.* FROM pg_extension AS e WHERE e.extname = 'pg_workflow'
), grants AS (
    SELECT 'relation ' || c.relname AS object, c.relacl AS acl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char" AS kind, c.relowner AS owner
    FROM relation AS c WHERE c.relkind IN ('r', 'p', 'v', 'S')
    UNION ALL
    SELECT 'function ' || p.oid::regprocedure, p.proacl, 'f', p.proowner FROM pg_proc AS p WHERE p.pronamespace = 'workflow'::regnamespace
    UNION ALL
    SELECT 'type ' || t.typname, t.typacl, 'T', t.typowner FROM pg_type AS t
    WHERE t.typnamespace = 'workflow'::regnamespace AND t.typtype = 'c'
        AND NOT EXISTS (SELECT FROM relation AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
    UNION ALL
    SELECT 'schema', n.nspacl, 'n', n.nspowner FROM pg_namespace AS n WHERE n.nspname = 'workflow'
    UNION ALL
    SELECT format('column %s.%s', c.relname, a.attname), a.attacl, 'c', c.relowner
    FROM relation AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
)
SELECT format('relation %s kind %s options %s partition key %s bound %s comment %s', c.relname, c.relkind,
    (SELECT array_agg(o ORDER BY o) FROM unnest(c.reloptions) AS o), pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
    obj_description(c.oid, 'pg_class'))
FROM relation AS c WHERE c.relkind IN ('r', 'p', 'v', 'S')
UNION ALL
SELECT format('row security of %s enabled %s forced %s', c.relname, c.relrowsecurity, c.relforcerowsecurity)
FROM relation AS c WHERE c.relkind IN ('r', 'p')
UNION ALL
SELECT format('policy %s on %s %s', p.polname, c.relname, to_jsonb(p) - '{oid,polrelid,polqual,polwithcheck}'::text[])
    || concat_ws(' check ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_policy AS p JOIN relation AS c ON c.oid = p.polrelid
UNION ALL
SELECT format('column %s.%s place %s type %s not null %s default %s identity %s comment %s', c.relname, a.attname,
    row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid), a.attidentity, col_description(c.oid, a.attnum))
FROM relation AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p', 'v', 'c')
UNION ALL
-- From version 18 on NOT NULL is a constraint with a name, which says nothing more than the column does.
SELECT format('constraint %s.%s %s inherited %s', x.conrelid::regclass, x.conname, pg_get_constraintdef(x.oid), x.conparentid <> 0)
FROM pg_constraint AS x WHERE x.connamespace = 'workflow'::regnamespace AND x.contype <> 'n'
UNION ALL
SELECT format('index %s attached to %s', pg_get_indexdef(c.oid), (SELECT i.inhparent::regclass FROM pg_inherits AS i WHERE i.inhrelid = c.oid))
FROM relation AS c WHERE c.relkind IN ('i', 'I')
UNION ALL
SELECT 'view ' || c.relname || pg_get_viewdef(c.oid) FROM relation AS c WHERE c.relkind = 'v'
UNION ALL
SELECT 'sequence ' || s.sequencename || ' ' || (to_jsonb(s) - 'last_value') || ' owned by '
    || coalesce(pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) || d.deptype::text, '')
FROM pg_sequences AS s
JOIN relation AS c ON c.relname = s.sequencename
LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
WHERE s.schemaname = 'workflow'
UNION ALL
SELECT 'function ' || pg_get_functiondef(p.oid) || coalesce(obj_description(p.oid, 'pg_proc'), '')
FROM pg_proc AS p WHERE p.pronamespace = 'workflow'::regnamespace
UNION ALL
SELECT 'trigger ' || format('%s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
FROM pg_trigger AS t JOIN relation AS c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT format('event trigger %s on %s %s calls %s %s', t.evtname, t.evtevent, t.evttags, t.evtfoid::regproc, obj_description(t.oid, 'pg_event_trigger'))
FROM pg_event_trigger AS t
UNION ALL
SELECT format('%s: %s may %s%s', g.object, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, a.privilege_type,
    CASE WHEN a.is_grantable THEN ' and grant it' END)
FROM grants AS g CROSS JOIN LATERAL aclexplode(coalesce(g.acl, acldefault(g.kind, g.owner))) AS a
UNION ALL
-- Also of objects that have no line above: types, constraints, triggers, indexes.
SELECT format('comment on %s %s: %s', o.type, o.identity, d.description)
FROM pg_description AS d
CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o
WHERE o.identity ~ 'workflow'
UNION ALL
SELECT format('type %s owner %s', t.typname, t.typowner::regrole)
FROM pg_type AS t WHERE t.typnamespace = 'workflow'::regnamespace AND t.typtype = 'c'
    AND NOT EXISTS (SELECT FROM relation AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
UNION ALL
SELECT 'of the extension: ' || pg_describe_object(d.classid, d.objid, d.objsubid)
FROM extension AS e JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
UNION ALL
SELECT format('dumped: %s %s', x.oid::regclass, x.condition)
FROM extension AS e CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS x (oid, condition)
ORDER BY 1
