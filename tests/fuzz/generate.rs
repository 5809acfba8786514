//! Random sequences of steps.

use super::changes::CHANGES;
use super::forms::FORMS;
use super::step::{Action, OWNER, Step};
use fastrand::Rng;
use pg_workflow_state_machine::State;

/// The steps of a sequence after its first run and tasks.
const LENGTH: std::ops::Range<usize> = 10..45;

/// Of 100 sequences, so many have a change that cannot be undone.
const SPOILED: u32 = 8;

/// Generates the sequence of a seed.
pub fn generate(seed: u64) -> Vec<Step> {
    let mut generator =
        Generator { random: Rng::with_seed(seed), runs: 0, tasks: Vec::new(), states: Vec::new(), steps: Vec::new() };
    generator.create_run(0);
    generator.create_tasks(0);
    let length = generator.random.usize(LENGTH);
    let spoils_at = (generator.random.u32(0..100) < SPOILED).then(|| generator.random.usize(0..length));
    for number in 0..length {
        if spoils_at == Some(number) {
            generator.change(|change| CHANGES[change].undo.is_none());
        }
        generator.step();
    }
    generator.steps
}

/// What it assumes of the entities: that each statement succeeds.
struct Generator {
    random: Rng,
    runs: usize,
    /// The run of each task.
    tasks: Vec<usize>,
    /// The state and version of each task.
    states: Vec<(State, i64)>,
    steps: Vec<Step>,
}

impl Generator {
    fn step(&mut self) {
        let session = self.random.usize(0..OWNER);
        match self.random.u32(0..100) {
            0..4 => self.create_run(session),
            4..11 => self.create_tasks(session),
            11..40 => self.transition(session),
            40..50 => self.transition_many(session),
            50..62 => self.form(session),
            62..70 => self.update(session),
            70..73 => self.delete(session),
            73..89 => self.control(session),
            89..92 => self.set(session),
            92..94 => self.steps.push(Step { session, action: Action::Cancel }),
            94..97 => self.change(|change| CHANGES[change].undo.is_some()),
            _ => self.undo(),
        }
    }

    fn run(&mut self, session: usize, sql: impl Into<String>) {
        self.steps.push(Step::run(session, sql));
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.random.usize(0..values.len())]
    }

    fn create_run(&mut self, session: usize) {
        let name = format!("r{}", self.runs);
        self.runs += 1;
        // Some have the date of another run.
        let hour = if self.random.u32(0..10) == 0 { 0 } else { self.runs };
        let dag = if self.random.u32(0..20) == 0 { "d9" } else { "d0" };
        let conf = self.pick(&["{}", "{}", "{\"n\": 1}", "[]"]);
        let sql = format!(
            "SELECT workflow.create_dag_run('{{{dag}}}', timestamptz '2026-01-01Z' + interval '{hour} h', '{conf}')"
        );
        self.steps.push(Step::create(session, sql, vec![name]));
    }

    fn create_tasks(&mut self, session: usize) {
        let is_missing = self.random.u32(0..10) == 0;
        let run = if is_missing { 99 } else { self.random.usize(0..self.runs) };
        let first = self.tasks.len();
        let count = self.pick(&[0, 1, 1, 2, 5, 12]);
        let mut names: Vec<String> =
            (first..first + count).map(|task| format!("'{}{task}'", self.pick(&["a", "b"]))).collect();
        self.random.shuffle(&mut names);
        // One bad name at most: the paths report another one of several.
        match (self.random.u32(0..12), names.first().cloned()) {
            (0, Some(again)) => names.push(again),
            (1, Some(_)) if first > 0 => names.push("'a0'".to_owned()),
            (2, _) => names.push(self.pick(&["NULL", "' '", "repeat('x', 501)", "'\u{e9}\u{4e2d}'"]).to_owned()),
            _ => (),
        }
        let most = self.pick(&["1", "3", "3", "0", "NULL"]);
        let sql = format!(
            "SELECT * FROM workflow.create_task_instances('{{r{run}}}', ARRAY[{}]::text[], {most})",
            names.join(", ")
        );
        self.tasks.extend(std::iter::repeat_n(run, names.len()));
        self.states.extend(std::iter::repeat_n((State::Queued, 1), names.len()));
        let created = (first..self.tasks.len()).map(|task| format!("t{task}")).collect();
        self.steps.push(Step::create(session, sql, created));
    }

    /// Returns a task, or the number of one that does not exist.
    fn task(&mut self) -> usize {
        // Few, so that sessions meet.
        let most = self.tasks.len().min(8);
        if most == 0 || self.random.u32(0..25) == 0 { 999 } else { self.random.usize(0..most) }
    }

    /// Returns a state and a next one: mostly those that make sense for a task.
    fn states(&mut self, task: usize) -> [State; 2] {
        let current = self.states.get(task).map_or(State::Queued, |(state, _)| *state);
        let old = if self.random.u32(0..8) == 0 { self.pick(&State::ALL) } else { current };
        let next = old.next_states();
        let new = if next.is_empty() || self.random.u32(0..15) == 0 { self.pick(&State::ALL) } else { self.pick(next) };
        // Lasting states keep the tasks in play.
        let new = if new.is_terminal() && old.can_transition(State::Running) { State::Running } else { new };
        [old, new]
    }

    fn assume(&mut self, task: usize, new: State) {
        if let Some((state, version)) = self.states.get_mut(task).filter(|(state, _)| state.can_transition(new)) {
            (*state, *version) = (new, *version + 1);
        }
    }

    fn transition(&mut self, session: usize) {
        if self.random.u32(0..6) == 0 {
            return self.transition_run(session);
        }
        let task = self.task();
        let [old, new] = self.states(task);
        let version = self.states.get(task).map_or(1, |(_, version)| *version);
        let metadata = self.pick(&[
            "{}",
            "{}",
            "{\"error\": \"boom\"}",
            "{\"error\": null}",
            "{\"error\": 5}",
            "{\"n\": [1, \"\\u00e9\"]}",
            "[]",
        ]);
        let metadata = match self.random.u32(0..20) {
            0 => "NULL".to_owned(),
            1 => "jsonb_build_object('error', repeat('x', 9000))".to_owned(),
            2 => "jsonb_build_object('error', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) AS n))"
                .to_owned(),
            _ => format!("'{metadata}'"),
        };
        let expected = match self.random.u32(0..8) {
            0 | 1 => version.to_string(),
            2 => (version + 1).to_string(),
            _ => "NULL".to_owned(),
        };
        let request = if self.random.u32(0..5) == 0 { self.pick(&["'p'", "'q'", "''"]) } else { "NULL" };
        let call = self.pick(&["transition('task_instance', ", "transition_task_instance("]);
        self.run(
            session,
            format!("SELECT workflow.{call}'{{t{task}}}', '{old}', '{new}', {metadata}, {expected}, {request})"),
        );
        self.assume(task, new);
    }

    fn transition_run(&mut self, session: usize) {
        let run = self.random.usize(0..self.runs);
        let (old, new) = (self.pick(&State::ALL), self.pick(&[State::Running, State::Failed, State::Retrying]));
        let sql = match self.random.u32(0..3) {
            0 => format!(
                "SELECT * FROM workflow.transition_many('dag_run', ARRAY['{{r{run}}}', '{{t0}}']::uuid[], NULL, '{new}')"
            ),
            1 => {
                format!("UPDATE workflow.dag_runs SET state = '{new}' WHERE id = '{{r{run}}}' RETURNING state, version")
            }
            _ => format!(
                "SELECT workflow.transition_dag_run('{{r{run}}}', state, '{new}') FROM (SELECT coalesce((SELECT state FROM workflow.dag_runs WHERE id = '{{r{run}}}'), '{old}') AS state) AS s"
            ),
        };
        self.run(session, sql);
    }

    fn transition_many(&mut self, session: usize) {
        let count = self.random.usize(1..8);
        let tasks: Vec<usize> = (0..count).map(|_| self.task()).collect();
        let [old, new] = self.states(tasks[0]);
        let old = if self.random.bool() { "NULL".to_owned() } else { format!("'{old}'") };
        let ids: Vec<String> = tasks.iter().map(|task| format!("'{{t{task}}}'")).collect();
        let dry = self.random.u32(0..10) == 0;
        let metadata = self.pick(&["{}", "{\"error\": \"of many\"}"]);
        self.run(
            session,
            format!("SELECT * FROM workflow.transition_many('task_instance', ARRAY[{}]::uuid[], {old}, '{new}', '{metadata}', {dry})", ids.join(", ")),
        );
        tasks.iter().filter(|_| !dry).for_each(|task| self.assume(*task, new));
    }

    fn form(&mut self, session: usize) {
        let (task, other) = (self.task(), self.task());
        let [old, new] = self.states(task);
        let form = &FORMS[self.random.usize(0..FORMS.len())];
        let (task_name, other_name) = (format!("{{t{task}}}"), format!("{{t{other}}}"));
        self.run(session, form.fill(&task_name, &other_name, [old.as_str(), new.as_str()]));
        self.assume(task, new);
    }

    fn update(&mut self, session: usize) {
        let task = self.task();
        let [_, new] = self.states(task);
        let change = self.pick(&[
            "max_tries = max_tries + 1",
            "max_tries = 0",
            "error = 'by hand'",
            "version = 9",
            "state = NULL",
            "state = 'odd'",
            "id = gen_random_uuid()",
            "task_id = 'other'",
            "updated_at = now()",
            "start_date = now()",
        ]);
        let change = if self.random.bool() { format!("state = '{new}'") } else { change.to_owned() };
        let which = match self.random.u32(0..4) {
            // By the index of the run's tasks, so that both sides update them in the same order.
            0 => format!("dag_run_id = '{{r{}}}' AND state || '' = 'running'", self.random.usize(0..self.runs)),
            _ => format!("id = '{{t{task}}}'"),
        };
        self.run(session, format!("UPDATE workflow.task_instances SET {change} WHERE {which}"));
        self.assume(task, new);
    }

    fn delete(&mut self, session: usize) {
        let task = self.task();
        let sql = match self.random.u32(0..4) {
            0 => format!("DELETE FROM workflow.dag_runs WHERE id = '{{r{}}}'", self.random.usize(0..self.runs)),
            _ => format!("DELETE FROM workflow.task_instances WHERE id = '{{t{task}}}'"),
        };
        self.run(session, sql);
    }

    fn control(&mut self, session: usize) {
        let sql = self.pick(&[
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "BEGIN READ ONLY",
            "COMMIT",
            "COMMIT",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "ROLLBACK",
            "SAVEPOINT a",
            "SAVEPOINT b",
            "ROLLBACK TO a",
            "ROLLBACK TO b",
            "RELEASE a",
            "PREPARE TRANSACTION '{database}'",
            "COMMIT PREPARED '{database}'",
            "ROLLBACK PREPARED '{database}'",
        ]);
        self.run(session, sql);
    }

    fn set(&mut self, session: usize) {
        let sql = self.pick(&[
            "SET ROLE fuzz_writer",
            "SET ROLE fuzz_reader",
            "SET ROLE fuzz_updater",
            "SET ROLE fuzz_mover",
            "SET ROLE fuzz_narrow",
            "SET ROLE fuzz_blind",
            "RESET ROLE",
            "RESET ROLE",
            "SET SESSION AUTHORIZATION fuzz_writer",
            "RESET SESSION AUTHORIZATION",
            "SET row_security = off",
            "RESET row_security",
            "SET default_transaction_isolation = 'repeatable read'",
            "RESET default_transaction_isolation",
            "SET enable_indexscan = off",
            "SET pg_workflow.max_field_size = '1kB'",
        ]);
        self.run(session, sql);
    }

    /// Mostly after the ends of all transactions, which would block it.
    fn change(&mut self, is_wanted: impl Fn(usize) -> bool) {
        let changes: Vec<usize> = (0..CHANGES.len()).filter(|change| is_wanted(*change)).collect();
        let change = self.pick(&changes);
        if self.random.u32(0..5) > 0 {
            (0..OWNER).for_each(|session| self.run(session, "COMMIT"));
        }
        self.steps.push(Step::toggle(change));
    }

    fn undo(&mut self) {
        let applied = |step: &Step| if let Action::Toggle(change) = step.action { Some(change) } else { None };
        let applied: Vec<usize> = self.steps.iter().filter_map(applied).collect();
        if !applied.is_empty() {
            let change = self.pick(&applied);
            self.change(|other| other == change);
        }
    }
}
