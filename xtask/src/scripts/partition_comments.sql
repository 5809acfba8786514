-- Partitions have copies of their table's comments on columns.
DO $$
DECLARE
    copy record;
BEGIN
    FOR copy IN
        SELECT i.inhrelid::pg_catalog.regclass AS "partition", a.attname AS name,
            pg_catalog.col_description(a.attrelid, a.attnum) AS comment
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.inhparent
        WHERE i.inhparent OPERATOR(pg_catalog.=) ANY (
                '{workflow.state_history,workflow.task_logs}'::pg_catalog.regclass[])
            AND a.attnum OPERATOR(pg_catalog.>) 0
            AND NOT a.attisdropped
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', copy."partition", copy.name, copy.comment);
    END LOOP;
END
$$;
