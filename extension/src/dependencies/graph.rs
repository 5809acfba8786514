//! The graph that a call describes: its tasks, by name, and which of them depend on which.

use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::memory;
use pg_workflow_state_machine::TriggerRule;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use std::collections::HashMap;
use std::fmt;

/// Tasks are numbered: first those that the call creates, then those of the run that it names.
pub struct Graph {
    /// How many tasks the call creates.
    pub new: usize,
    pub names: Vec<String>,
    /// The parents of each new task, in ascending order, without repetition.
    pub parents: Vec<Vec<u32>>,
    pub rules: Vec<TriggerRule>,
}

impl Graph {
    /// Reads the arguments of a call that creates tasks of these names. Raises an error if they make no graph.
    pub fn read(names: &[String], depends_on: Option<Jsonb>, trigger_rules: Option<Jsonb>) -> Graph {
        let new = names.len();
        let mut numbers = HashMap::new();
        numbers.try_reserve(new).unwrap_or_else(|_| errors::out_of_memory());
        numbers.extend(names.iter().enumerate().map(|(n, name)| (memory::copy(name), n as u32)));
        let mut reader = Reader {
            graph: Graph {
                new,
                names: memory::collect(names.iter().map(|name| memory::copy(name))),
                parents: memory::collect(names.iter().map(|_| Vec::new())),
                rules: memory::collect(names.iter().map(|_| TriggerRule::default())),
            },
            numbers,
        };
        let mut read =
            |text: String| DependsOn(&mut reader).deserialize(&mut serde_json::Deserializer::from_str(&text)).is_ok();
        if !depends_on.is_none_or(|value| read(text_of("depends_on", value))) {
            errors::invalid_argument(
                "depends_on",
                &json!(null),
                "must be an object of arrays of text",
                "Give the tasks that each depends on, such as '{\"load\": [\"extract\", \"transform\"]}'.",
            );
        }
        if let Some(rules) = trigger_rules {
            reader.read_rules(&text_of("trigger_rules", rules));
        }
        let mut graph = reader.graph;
        for parents in &mut graph.parents {
            parents.sort_unstable();
            parents.dedup();
        }
        graph.refuse_cycle();
        graph
    }

    /// Returns the tasks of the run that the call names.
    pub fn others(&self) -> &[String] {
        &self.names[self.new..]
    }

    /// Raises an error if a task depends on itself, perhaps by way of others.
    fn refuse_cycle(&self) {
        if let Some(child) = (0..self.new).find(|child| self.parents[*child].contains(&(*child as u32))) {
            refuse_own_parent("depends_on", &self.names[child]);
        }
        let left = self.left_by_order();
        if !left.is_empty() {
            self.raise_cycle(&left);
        }
    }

    /// Returns for each new task whether it is behind or in a cycle; none if there is no cycle (Kahn's algorithm).
    fn left_by_order(&self) -> Vec<bool> {
        let is_new = |parent: &&u32| (**parent as usize) < self.new;
        let mut open = memory::collect(self.parents.iter().map(|parents| parents.iter().filter(is_new).count()));
        // The children of each task, one after the other.
        let mut ends = memory::collect((0..=self.new).map(|_| 0usize));
        for parent in self.parents.iter().flatten().filter(is_new) {
            ends[*parent as usize + 1] += 1;
        }
        (0..self.new).for_each(|n| ends[n + 1] += ends[n]);
        let mut children = memory::collect((0..ends[self.new]).map(|_| 0u32));
        let mut next = memory::collect(ends.iter().copied());
        for (child, parents) in self.parents.iter().enumerate() {
            for parent in parents.iter().filter(is_new) {
                children[next[*parent as usize]] = child as u32;
                next[*parent as usize] += 1;
            }
        }
        let mut ordered = memory::collect((0..self.new as u32).filter(|n| open[*n as usize] == 0));
        let mut done = 0;
        while let Some(task) = ordered.get(done).copied() {
            done += 1;
            for child in &children[ends[task as usize]..ends[task as usize + 1]] {
                open[*child as usize] -= 1;
                if open[*child as usize] == 0 {
                    memory::push(&mut ordered, *child);
                }
            }
        }
        if done == self.new { Vec::new() } else { memory::collect(open.iter().map(|open| *open > 0)) }
    }

    /// Raises the error of a cycle, with its path: each task of it depends on the next one.
    fn raise_cycle(&self, left: &[bool]) -> ! {
        const MOST_NAMES: usize = 100;
        let mut path = memory::collect(left.iter().position(|left| *left).map(|first| first as u32));
        let cycle = loop {
            let Some(last) = path.last().copied() else { break Vec::new() };
            // Each of them has a parent among them.
            let parent = self.parents[last as usize].iter().find(|parent| left.get(**parent as usize) == Some(&true));
            let Some(parent) = parent.copied() else { break Vec::new() };
            if let Some(begin) = path.iter().position(|task| *task == parent) {
                memory::push(&mut path, parent);
                break path.split_off(begin);
            }
            memory::push(&mut path, parent);
        };
        let names: Vec<_> = cycle.iter().take(MOST_NAMES).map(|n| errors::cut(&self.names[*n as usize])).collect();
        let first = names.first().copied().unwrap_or_default();
        errors::invalid(
            &format!("depends_on has a cycle: task \"{first}\" depends on itself by way of others"),
            &json!({ "argument": "depends_on", "cycle": names }),
            "Remove one of the dependencies in DETAIL: each task depends on the next one.",
        )
    }
}

/// Raises the error of a task that depends on itself.
pub fn refuse_own_parent(argument: &str, name: &str) -> ! {
    let name = errors::cut(name);
    errors::invalid(
        &format!("task \"{name}\" depends on itself"),
        &json!({ "argument": argument, "task_id": name, "cycle": [name, name] }),
        "Remove the task from its own list.",
    )
}

/// Returns the rule of this name, for a task if it is that of one.
pub fn rule(argument: &str, task_id: Option<&str>, name: &str) -> TriggerRule {
    name.parse().unwrap_or_else(|_| {
        let shown = errors::cut(name);
        let mut detail = json!({ "argument": argument, "value": shown });
        if let Some(task_id) = task_id {
            detail["task_id"] = json!(errors::cut(task_id));
        }
        let known = TriggerRule::ALL.map(TriggerRule::as_str);
        let hint = format!("Use one of: {}.", known.join(", "));
        errors::invalid(&format!("unknown trigger rule \"{shown}\""), &detail, &hint)
    })
}

/// Returns the text of an argument that must be an object.
fn text_of(argument: &str, value: Jsonb) -> String {
    if !value.is_object() {
        errors::invalid_argument(
            argument,
            &json!(null),
            "must be a JSON object",
            "Give an object whose keys are names of tasks, or omit it.",
        );
    }
    value.to_json_text()
}

struct Reader {
    graph: Graph,
    numbers: HashMap<String, u32>,
}

impl Reader {
    /// Returns the number of a task that the call creates.
    fn child(&self, argument: &str, name: &str) -> usize {
        let number = self.numbers.get(name).map(|number| *number as usize).filter(|number| *number < self.graph.new);
        number.unwrap_or_else(|| {
            let name = errors::cut(name);
            errors::invalid(
                &format!("{argument} has task \"{name}\", which the call does not create"),
                &json!({ "argument": argument, "task_id": name }),
                "Use only names in task_ids as keys.",
            )
        })
    }

    /// Returns the number of a task of the call, or of the run.
    fn parent(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.graph.names.len() as u32;
        self.numbers.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
        self.numbers.insert(memory::copy(name), number);
        memory::push(&mut self.graph.names, memory::copy(name));
        number
    }

    fn read_rules(&mut self, text: &str) {
        let rules: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
        for (name, value) in &rules {
            let child = self.child("trigger_rules", name);
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.graph.rules[child] = rule("trigger_rules", Some(name), &shown);
        }
    }
}

/// Reads an object of arrays of names.
struct DependsOn<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for DependsOn<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DependsOn<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of arrays of text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Name(|name: &str| self.0.child("depends_on", name)))? {
            map.next_value_seed(Parents(self.0, child))?;
        }
        Ok(())
    }
}

/// Reads the parents of a task.
struct Parents<'a>(&'a mut Reader, usize);

impl<'de> DeserializeSeed<'de> for Parents<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Parents<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of text")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(parent) = sequence.next_element_seed(Name(|name: &str| self.0.parent(name)))? {
            memory::push(&mut self.0.graph.parents[self.1], parent);
        }
        Ok(())
    }
}

/// Reads a name, and returns what the function makes of it.
struct Name<F>(F);

impl<'de, R, F: FnOnce(&str) -> R> DeserializeSeed<'de> for Name<F> {
    type Value = R;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<R, F: FnOnce(&str) -> R> Visitor<'_> for Name<F> {
    type Value = R;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<R, E> {
        Ok((self.0)(name))
    }
}
