//! Recorded workflows in [WfFormat](https://wfcommons.org/format) 1.5: tasks, what they wait for, how long they took.

mod date;
mod document;
mod graph;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use document::Document;

/// The longest name of a DAG and the longest task id that the database takes, in characters.
const LONGEST_NAME: usize = 250;
const LONGEST_TASK_ID: usize = 500;

/// A recorded workflow, checked: ids are unique, every edge leads somewhere, and there is no cycle.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The name of the file.
    pub source: String,
    /// The workflow's name; that of the file where the trace has none.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// The version of WfFormat that the trace says it is in.
    pub schema_version: Option<String>,
    /// When the workflow was run.
    pub executed_at: Option<DateTime<Utc>>,
    /// When the trace was made.
    pub created_at: Option<DateTime<Utc>>,
    /// In the order of the file.
    pub tasks: Vec<Task>,
    /// What was found odd in the file and passed over.
    pub warnings: Vec<String>,
}

/// A task of a trace.
#[derive(Clone, Debug)]
pub struct Task {
    /// Unique in the trace.
    pub id: String,
    /// How long it ran; zero where that was not recorded.
    pub runtime: Duration,
    /// Places in [`Trace::tasks`] of the tasks that it waits for.
    pub parents: Vec<usize>,
    /// Places of the tasks that wait for it.
    pub children: Vec<usize>,
}

/// A file that is no usable trace.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct TraceError {
    /// The file as it was named.
    pub file: String,
    /// What is wrong, and where.
    pub problem: Problem,
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("is not JSON: {0}; expected a trace in WfFormat 1.5")]
    NotJson(serde_json::Error),
    #[error("is not WfFormat 1.5: at {path}: {message}")]
    NotWfFormat { path: String, message: String },
    #[error(
        "is in an older WfFormat{0}: its tasks are in workflow.tasks; expected workflow.specification.tasks, as in WfFormat 1.5"
    )]
    Older(String),
    #[error("has no tasks: workflow.specification.tasks is empty; expected at least one")]
    NoTasks,
    #[error("has a {0}; expected 1 to {1} characters, one of them visible, none of them a null character")]
    BadText(String, usize),
    #[error(
        "has two tasks with the id \"{id}\", at workflow.specification.tasks[{first}] and [{second}]; expected each id once"
    )]
    DuplicateId { id: String, first: usize, second: usize },
    #[error(
        "names an unknown {relation} \"{id}\" of task \"{task}\"; expected the id of a task in workflow.specification.tasks"
    )]
    UnknownTask { relation: &'static str, id: String, task: String },
    #[error("has a cycle: {0}; expected that no task waits for itself")]
    Cycle(String),
    #[error("has a runtimeInSeconds of {runtime} for task \"{task}\"; expected a number of seconds from 0 on")]
    BadRuntime { runtime: f64, task: String },
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TraceError`] says what is wrong, where, and what was expected.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let problem = |problem| TraceError { file: path.display().to_string(), problem };
        let json = std::fs::read(path).map_err(|error| problem(Problem::Unreadable(error)))?;
        let source = path.file_name().unwrap_or_default().to_string_lossy();
        parse(&json, &source).map_err(problem)
    }

    /// Reads the text of a file named `source`.
    ///
    /// # Errors
    /// [`TraceError`] says what is wrong, where, and what was expected.
    ///
    /// ```
    /// let json = r#"{"name": "etl", "workflow": {"specification": {"tasks": [
    ///     {"id": "extract", "children": ["load"]},
    ///     {"id": "load"}
    /// ]}}}"#;
    /// let trace = pg_workflow_server::wfformat::Trace::parse(json, "etl.json")?;
    /// assert_eq!(trace.tasks[1].parents, [0]);
    /// # Ok::<(), pg_workflow_server::wfformat::TraceError>(())
    /// ```
    pub fn parse(json: &str, source: &str) -> Result<Trace, TraceError> {
        parse(json.as_bytes(), source).map_err(|problem| TraceError { file: source.to_owned(), problem })
    }

    /// The least time that the workflow takes with any number of workers: the longest sum of runtimes along a path.
    pub fn critical_path(&self) -> Duration {
        let mut ends = vec![Duration::ZERO; self.tasks.len()];
        for place in graph::order(&self.tasks) {
            let starts = self.tasks[place].parents.iter().map(|&parent| ends[parent]).max().unwrap_or_default();
            ends[place] = starts.saturating_add(self.tasks[place].runtime);
        }
        ends.into_iter().max().unwrap_or_default()
    }
}

fn parse(json: &[u8], source: &str) -> Result<Trace, Problem> {
    let document = Document::parse(json)?;
    let mut warnings = Vec::new();
    let tasks = tasks(&document, &mut warnings)?;
    let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy();
    let name = document.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| stem.into_owned());
    check_text("name", &name, LONGEST_NAME)?;
    let mut moment = |field: &str, text: Option<String>| {
        let text = text?;
        let moment = date::parse(&text);
        if moment.is_none() {
            warnings.push(format!("{field} \"{text}\" is in no spelling known here and is left out"));
        }
        moment
    };
    Ok(Trace {
        source: source.to_owned(),
        name,
        description: document.description,
        schema_version: document.schema_version,
        executed_at: moment("executedAt", document.workflow.execution.executed_at),
        created_at: moment("createdAt", document.created_at),
        tasks,
        warnings,
    })
}

/// The tasks, their runtimes and the union of what parents and children say.
fn tasks(document: &Document, warnings: &mut Vec<String>) -> Result<Vec<Task>, Problem> {
    let specified = &document.workflow.specification.tasks;
    if specified.is_empty() {
        return Err(Problem::NoTasks);
    }
    let mut places = HashMap::with_capacity(specified.len());
    for (place, task) in specified.iter().enumerate() {
        check_text("task id", &task.id, LONGEST_TASK_ID)?;
        if let Some(first) = places.insert(task.id.as_str(), place) {
            return Err(Problem::DuplicateId { id: task.id.clone(), first, second: place });
        }
    }
    let mut tasks: Vec<Task> = specified
        .iter()
        .map(|task| Task { id: task.id.clone(), runtime: Duration::ZERO, parents: Vec::new(), children: Vec::new() })
        .collect();
    for executed in &document.workflow.execution.tasks {
        match places.get(executed.id.as_str()) {
            Some(&place) => tasks[place].runtime = runtime(&executed.id, executed.runtime_in_seconds)?,
            None => warnings.push(format!(
                "workflow.execution has a task \"{}\" that is not specified; it is left out",
                executed.id
            )),
        }
    }
    graph::connect(&mut tasks, specified, &places)?;
    graph::refuse_cycle(&tasks)?;
    Ok(tasks)
}

fn runtime(task: &str, seconds: Option<f64>) -> Result<Duration, Problem> {
    let seconds = seconds.unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).map_err(|_| Problem::BadRuntime { runtime: seconds, task: task.to_owned() })
}

fn check_text(what: &str, text: &str, longest: usize) -> Result<(), Problem> {
    let wrong = match text.chars().count() {
        _ if text.trim().is_empty() => format!("{what} that is empty"),
        _ if text.contains('\0') => format!("{what} {text:?} with a null character"),
        length if length > longest => {
            format!("{what} of {length} characters, \"{}…\"", text.chars().take(40).collect::<String>())
        }
        _ => return Ok(()),
    };
    Err(Problem::BadText(wrong, longest))
}
