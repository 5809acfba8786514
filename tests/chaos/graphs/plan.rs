//! A random graph: its tasks, their parents and rules. Each run has its plan as `conf`.

use anyhow::{Context, Result};
use fastrand::Rng;
use pg_workflow_state_machine::{State, TriggerRule};
use serde_json::{Value, json};

/// How a task ends if it runs: its name says so.
const ENDS: [State; 5] = [State::Success, State::Success, State::Success, State::Failed, State::Skipped];

/// A task of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub name: String,
    pub rule: TriggerRule,
    /// The names of its parents, which come before it.
    pub parents: Vec<String>,
    /// Another parent, which is perhaps added later.
    pub later: Option<String>,
}

/// The state in which a task ends that runs.
pub fn end_of(name: &str) -> Result<State> {
    let end = name.rsplit(' ').next().and_then(|end| end.parse().ok());
    end.with_context(|| format!("not the name of a task of a graph: {name}"))
}

pub fn draw(random: &mut Rng) -> Vec<Planned> {
    let mut tasks: Vec<Planned> = Vec::new();
    for number in 0..random.usize(4..14) {
        let end = ENDS[random.usize(..ENDS.len())];
        let wanted = if random.u8(..5) == 0 { 0 } else { random.usize(..=number.min(4)) };
        let chosen = random.choose_multiple(0..number, wanted);
        let mut parents: Vec<String> = chosen.into_iter().map(|parent| tasks[parent].name.clone()).collect();
        // Not if it is skipped by hand, which ends its wait.
        let later = (random.u8(..4) == 0 && end != State::Skipped).then(|| parents.pop()).flatten();
        let rule = TriggerRule::ALL[random.usize(..TriggerRule::ALL.len())];
        tasks.push(Planned { name: format!("{number} {end}"), rule, parents, later });
    }
    tasks
}

pub fn to_json(tasks: &[Planned]) -> Value {
    let task = |task: &Planned| json!({"name": task.name, "rule": task.rule.as_str(), "parents": task.parents, "later": task.later});
    json!({ "tasks": tasks.iter().map(task).collect::<Value>() })
}

pub fn from_json(plan: &Value) -> Result<Vec<Planned>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let task = |value: &Value| {
        Some(Planned {
            name: text(&value["name"])?,
            rule: value["rule"].as_str()?.parse().ok()?,
            parents: value["parents"].as_array()?.iter().map(text).collect::<Option<_>>()?,
            later: text(&value["later"]),
        })
    };
    let tasks = plan["tasks"].as_array().and_then(|tasks| tasks.iter().map(task).collect());
    tasks.with_context(|| format!("not a plan: {plan}"))
}
