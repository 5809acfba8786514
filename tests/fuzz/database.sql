CREATE EXTENSION pg_workflow;
CREATE EXTENSION amcheck;
SELECT workflow.fold_state_counts();
GRANT workflow_writer TO fuzz_writer;
GRANT workflow_reader TO fuzz_reader;
GRANT USAGE ON SCHEMA workflow TO fuzz_updater, fuzz_mover, fuzz_narrow, fuzz_blind;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO fuzz_updater, fuzz_mover, fuzz_narrow, fuzz_blind;
GRANT SELECT, UPDATE ON workflow.dag_runs, workflow.task_instances TO fuzz_updater;
GRANT SELECT, UPDATE (state) ON workflow.dag_runs, workflow.task_instances TO fuzz_mover;
GRANT SELECT (id, state, version), UPDATE (state) ON workflow.dag_runs, workflow.task_instances TO fuzz_narrow;
GRANT UPDATE (state) ON workflow.dag_runs, workflow.task_instances TO fuzz_blind;
GRANT ALL ON SCHEMA public TO PUBLIC;

-- What triggers of users saw.
CREATE TABLE public.notes (trigger text, event text, level text, state text);
GRANT ALL ON public.notes TO PUBLIC;
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        state := coalesce(to_jsonb(NEW)->>'state', to_jsonb(NEW)->>'new_state');
    END IF;
    INSERT INTO public.notes VALUES (TG_NAME, TG_OP, TG_LEVEL, state);
    RETURN NEW;
END $$;

-- A row here starts a task.
CREATE TABLE public.starts (task uuid);
GRANT ALL ON public.starts TO PUBLIC;
CREATE FUNCTION public.start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM workflow.transition_task_instance(NEW.task, 'queued', 'running');
    RETURN NULL;
END $$;
CREATE TRIGGER start AFTER INSERT ON public.starts FOR EACH ROW EXECUTE FUNCTION public.start();

-- What a foreign key of a user refers to.
CREATE TABLE public.known (name text PRIMARY KEY);
INSERT INTO public.known SELECT 'a' || n FROM generate_series(0, 99) AS n;

CREATE FUNCTION public.move(task uuid, old_state text, new_state text) RETURNS bigint LANGUAGE sql AS
$$ SELECT workflow.transition_task_instance(task, old_state, new_state) $$;
CREATE FUNCTION public.move_stably(task uuid, old_state text, new_state text) RETURNS bigint STABLE LANGUAGE plpgsql AS
$$ BEGIN RETURN workflow.transition_task_instance(task, old_state, new_state); END $$;
CREATE FUNCTION public.move_as_owner(task uuid, old_state text, new_state text) RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS
$$ BEGIN RETURN workflow.transition_task_instance(task, old_state, new_state); END $$;
-- Returns the error instead of raising it.
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
