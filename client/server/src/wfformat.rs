//! Recorded workflows in [WfFormat](https://wfcommons.org/format) 1.5: tasks, dependencies, durations.

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

/// Maximum lengths of the name of a DAG and of a task name in the database, in characters.
const MAX_NAME: usize = 250;
const MAX_TASK_ID: usize = 500;

/// A recorded workflow, checked: ids are unique, every edge leads somewhere, and there is no cycle.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Name of the file.
    pub source: String,
    /// Name of the workflow; the name of the file if the trace has none.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Version of WfFormat that the trace declares.
    pub schema_version: Option<String>,
    /// Time of the recorded execution.
    pub executed_at: Option<DateTime<Utc>>,
    /// Time of the creation of the trace.
    pub created_at: Option<DateTime<Utc>>,
    /// Tasks in the order of the file.
    pub tasks: Vec<Task>,
    /// Ignored problems of the file.
    pub warnings: Vec<String>,
}

/// A task of a trace.
#[derive(Clone, Debug)]
pub struct Task {
    /// Unique in the trace.
    pub id: String,
    /// Recorded duration; zero if it was not recorded.
    pub runtime: Duration,
    /// Indexes in [`Trace::tasks`] of the tasks that it depends on.
    pub parents: Vec<usize>,
    /// Indexes of the tasks that depend on it.
    pub children: Vec<usize>,
}

/// A file that is not a valid trace.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct TraceError {
    /// Path of the file.
    pub file: String,
    /// The problem, with its position in the file.
    pub problem: Problem,
}

/// A problem of a trace.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe them")]
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
        "has two tasks with the id \"{id}\", at workflow.specification.tasks[{first}] and [{second}]; expected unique ids"
    )]
    DuplicateId { id: String, first: usize, second: usize },
    #[error(
        "names an unknown {relation} \"{id}\" of task \"{task}\"; expected the id of a task in workflow.specification.tasks"
    )]
    UnknownTask { relation: &'static str, id: String, task: String },
    #[error("has a cycle: {0}; expected no task to depend on itself")]
    Cycle(String),
    #[error("has a runtimeInSeconds of {runtime} for task \"{task}\"; expected a number of seconds, 0 or more")]
    BadRuntime { runtime: f64, task: String },
}

impl Trace {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// Returns a [`TraceError`] with the problem, its position and the expected content.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let problem = |problem| TraceError { file: path.display().to_string(), problem };
        let json = std::fs::read(path).map_err(|error| problem(Problem::Unreadable(error)))?;
        let source = path.file_name().unwrap_or_default().to_string_lossy();
        parse(&json, &source).map_err(problem)
    }

    /// Parses the text of a file named `source`.
    ///
    /// # Errors
    /// Returns a [`TraceError`] with the problem, its position and the expected content.
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

    /// Returns the minimum duration with any number of workers: the longest sum of runtimes along a path.
    pub fn critical_path(&self) -> Duration {
        let mut ends = vec![Duration::ZERO; self.tasks.len()];
        for index in graph::sort(&self.tasks) {
            let starts = self.tasks[index].parents.iter().map(|&parent| ends[parent]).max().unwrap_or_default();
            ends[index] = starts.saturating_add(self.tasks[index].runtime);
        }
        ends.into_iter().max().unwrap_or_default()
    }
}

fn parse(json: &[u8], source: &str) -> Result<Trace, Problem> {
    let document = Document::parse(json)?;
    let mut warnings = Vec::new();
    let tasks = build_tasks(&document, &mut warnings)?;
    let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy();
    let name = document.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| stem.into_owned());
    check_text("name", &name, MAX_NAME)?;
    let mut parse_date = |field: &str, text: Option<String>| {
        let text = text?;
        let date = date::parse(&text);
        if date.is_none() {
            warnings.push(format!("{field} \"{text}\" has an unknown date format; ignored"));
        }
        date
    };
    Ok(Trace {
        source: source.to_owned(),
        name,
        description: document.description,
        schema_version: document.schema_version,
        executed_at: parse_date("executedAt", document.workflow.execution.executed_at),
        created_at: parse_date("createdAt", document.created_at),
        tasks,
        warnings,
    })
}

/// Builds the tasks with their runtimes and the union of the edges in `parents` and `children`.
fn build_tasks(document: &Document, warnings: &mut Vec<String>) -> Result<Vec<Task>, Problem> {
    let specified = &document.workflow.specification.tasks;
    if specified.is_empty() {
        return Err(Problem::NoTasks);
    }
    let mut indexes = HashMap::with_capacity(specified.len());
    for (index, task) in specified.iter().enumerate() {
        check_text("task id", &task.id, MAX_TASK_ID)?;
        if let Some(first) = indexes.insert(task.id.as_str(), index) {
            return Err(Problem::DuplicateId { id: task.id.clone(), first, second: index });
        }
    }
    let mut tasks: Vec<Task> = specified
        .iter()
        .map(|task| Task { id: task.id.clone(), runtime: Duration::ZERO, parents: Vec::new(), children: Vec::new() })
        .collect();
    for executed in &document.workflow.execution.tasks {
        match indexes.get(executed.id.as_str()) {
            Some(&index) => tasks[index].runtime = parse_runtime(&executed.id, executed.runtime_in_seconds)?,
            None => warnings
                .push(format!("workflow.execution has a task \"{}\" that is not specified; ignored", executed.id)),
        }
    }
    graph::connect(&mut tasks, specified, &indexes)?;
    graph::reject_cycle(&tasks)?;
    Ok(tasks)
}

fn parse_runtime(task: &str, seconds: Option<f64>) -> Result<Duration, Problem> {
    let seconds = seconds.unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).map_err(|_| Problem::BadRuntime { runtime: seconds, task: task.to_owned() })
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), Problem> {
    let problem = match text.chars().count() {
        _ if text.trim().is_empty() => format!("{field} that is empty"),
        _ if text.contains('\0') => format!("{field} {text:?} with a null character"),
        length if length > max => {
            format!("{field} of {length} characters, \"{}…\"", text.chars().take(40).collect::<String>())
        }
        _ => return Ok(()),
    };
    Err(Problem::BadText(problem, max))
}
