//! Changes that roles may make, with the reasons. Everything else must stay as it was.

/// What changes, whether lines go (`-`) or come (`+`), and the reason.
pub type Allowed = (&'static str, &'static str, &'static str);

/// Changes that a writer makes with its rights. Rows of the history only come; verify() compares them with the entities.
pub const WRITES: &[Allowed] = &[
    ("dags", "+-", "a writer creates and pauses DAGs"),
    ("dag_runs", "+-", "a writer creates and moves runs"),
    ("task_instances", "+-", "a writer creates and moves tasks"),
    ("task_logs", "+", "a writer appends to logs"),
    ("state_history", "+", "each transition adds its event"),
    ("queue_settings", "+-", "a writer creates and limits queues"),
    ("ready", "+-", "and claims their tasks"),
    ("consumers", "+", "a writer creates consumers of its own"),
    ("consumer_checkpoints", "+", "and their checkpoints"),
    ("state_counts_at", "+-", "a writer refreshes the counts"),
    ("state_count_place", "+-", "and their position"),
];

/// Changes that an administrator makes besides.
pub const ADMINISTERS: &[Allowed] = &[
    ("task_logs", "-", "purge() deletes finished runs"),
    ("state_count_changes", "+-", "and their counts"),
    ("consumers", "-", "an administrator moves and drops every consumer"),
    ("consumer_checkpoints", "-", "and its checkpoints"),
    ("relation", "+", "open_partitions() creates partitions"),
    ("column", "+", "with columns"),
    ("trigger", "+", "with triggers"),
    ("policy", "+", "with policies"),
];
