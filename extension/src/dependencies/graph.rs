//! The graph that a call describes: its tasks, by name, and which of them depend on which.

use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::jsonb_container::{Container, Item};
use crate::memory;
use pg_workflow_state_machine::TriggerRule;
use serde_json::json;
use std::collections::HashMap;

/// Tasks are numbered: first those that the call creates, then those of the run that it names.
pub struct Graph {
    /// How many tasks the call creates.
    pub new: usize,
    pub names: Vec<String>,
    /// Lists of parents, each different, in ascending order, without repetition. The first one is empty.
    pub lists: Vec<Vec<u32>>,
    /// The list of each new task.
    pub list_of: Vec<u32>,
    pub rules: Vec<TriggerRule>,
}

impl Graph {
    /// Reads the arguments of a call that creates tasks of these names. Raises an error if they make no graph.
    pub fn read(names: &[String], depends_on: Option<Jsonb>, trigger_rules: Option<Jsonb>) -> Graph {
        let mut numbers: HashMap<&[u8], u32> = HashMap::new();
        numbers.try_reserve(names.len()).unwrap_or_else(|_| errors::out_of_memory());
        numbers.extend(names.iter().enumerate().map(|(n, name)| (name.as_bytes(), n as u32)));
        let graph = Graph {
            new: names.len(),
            names: memory::collect(names.iter().map(|name| memory::copy(name))),
            lists: vec![Vec::new()],
            list_of: memory::collect(names.iter().map(|_| 0)),
            rules: memory::collect(names.iter().map(|_| TriggerRule::default())),
        };
        let mut reader = Reader { graph, numbers };
        if depends_on.as_ref().is_some_and(|value| reader.read_depends_on(object("depends_on", value)).is_none()) {
            errors::invalid_argument(
                "depends_on",
                &json!(null),
                "must be an object of arrays of text",
                "Give the tasks that each depends on, such as '{\"load\": [\"extract\", \"transform\"]}'.",
            );
        }
        if trigger_rules.as_ref().is_some_and(|value| reader.read_rules(object("trigger_rules", value)).is_none()) {
            errors::invalid_argument(
                "trigger_rules",
                &json!(null),
                "must be an object of texts",
                "Give the rule of each task, such as '{\"clean_up\": \"all_done\"}'.",
            );
        }
        let mut graph = reader.graph;
        graph.join_equal_lists();
        graph.refuse_cycle();
        graph
    }

    /// Returns the parents of a new task.
    pub fn parents(&self, child: usize) -> &[u32] {
        &self.lists[self.list_of[child] as usize]
    }

    /// Lets tasks with the same parents have the same list, whatever the order in which they were given.
    fn join_equal_lists(&mut self) {
        let mut first: HashMap<&[u32], u32> = HashMap::new();
        first.try_reserve(self.lists.len()).unwrap_or_else(|_| errors::out_of_memory());
        let same = memory::collect(self.lists.iter().zip(0..).map(|(list, n)| *first.entry(list).or_insert(n)));
        self.list_of.iter_mut().for_each(|list| *list = same[*list as usize]);
    }

    /// Returns the tasks of the run that the call names.
    pub fn others(&self) -> &[String] {
        &self.names[self.new..]
    }

    /// Raises an error if a task depends on itself, perhaps by way of others.
    fn refuse_cycle(&self) {
        if let Some(child) = (0..self.new).find(|child| self.parents(*child).binary_search(&(*child as u32)).is_ok()) {
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
        // Each list has parents before it, and children behind it.
        let mut open = memory::collect(self.lists.iter().map(|list| list.iter().filter(is_new).count()));
        let edges =
            self.lists.iter().zip(0..).flat_map(|(list, n)| list.iter().filter(is_new).map(move |task| (*task, n)));
        let lists_of = Grouped::new(self.new, edges);
        let children_of = Grouped::new(self.lists.len(), self.list_of.iter().copied().zip(0..));
        let mut ordered =
            memory::collect((0..self.new as u32).filter(|n| open[self.list_of[*n as usize] as usize] == 0));
        let mut done = 0;
        while let Some(task) = ordered.get(done).copied() {
            done += 1;
            for list in lists_of.of(task) {
                open[*list as usize] -= 1;
                if open[*list as usize] == 0 {
                    children_of.of(*list).iter().for_each(|child| memory::push(&mut ordered, *child));
                }
            }
        }
        if done == self.new {
            return Vec::new();
        }
        memory::collect(self.list_of.iter().map(|list| open[*list as usize] > 0))
    }

    /// Raises the error of a cycle, with its path: each task of it depends on the next one.
    fn raise_cycle(&self, left: &[bool]) -> ! {
        let mut path = memory::collect(left.iter().position(|left| *left).map(|first| first as u32));
        let mut places = memory::collect(left.iter().map(|_| None));
        let cycle = loop {
            pgrx::check_for_interrupts!();
            let Some(last) = path.last().copied() else { break Vec::new() };
            // Each of them has a parent among them.
            let parent = self.parents(last as usize).iter().find(|parent| left.get(**parent as usize) == Some(&true));
            let Some(parent) = parent.copied() else { break Vec::new() };
            places[last as usize] = Some(path.len() - 1);
            if let Some(begin) = places[parent as usize] {
                memory::push(&mut path, parent);
                break path.split_off(begin);
            }
            memory::push(&mut path, parent);
        };
        let first = cycle.first().map(|n| errors::cut(&self.names[*n as usize])).unwrap_or_default();
        super::cycle::refuse_path(
            &format!("depends_on has a cycle: task \"{first}\" depends on itself by way of others"),
            "depends_on",
            cycle.iter().map(|n| &*self.names[*n as usize]),
            cycle.len(),
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

/// Returns an argument that must be an object.
fn object<'a>(argument: &str, value: &'a Jsonb) -> Container<'a> {
    if !value.is_object() {
        errors::invalid_argument(
            argument,
            &json!(null),
            "must be a JSON object",
            "Give an object whose keys are names of tasks, or omit it.",
        );
    }
    value.container()
}

/// Numbers by the number to which they belong.
struct Grouped {
    /// Where those of each begin; and where the last end.
    begins: Vec<u32>,
    all: Vec<u32>,
}

impl Grouped {
    fn new(count: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Grouped {
        let mut begins = memory::collect((0..=count).map(|_| 0));
        pairs.clone().for_each(|(of, _)| begins[of as usize + 1] += 1);
        (0..count).for_each(|n| begins[n + 1] += begins[n]);
        let mut next = memory::collect(begins.iter().copied());
        let mut all = memory::collect((0..begins[count]).map(|_| 0));
        for (of, number) in pairs {
            all[next[of as usize] as usize] = number;
            next[of as usize] += 1;
        }
        Grouped { begins, all }
    }

    fn of(&self, number: u32) -> &[u32] {
        let [begin, end] = [number, number + 1].map(|n| self.begins[n as usize] as usize);
        &self.all[begin..end]
    }
}

struct Reader<'a> {
    graph: Graph,
    numbers: HashMap<&'a [u8], u32>,
}

impl<'a> Reader<'a> {
    /// Reads an object of arrays of names; `None` if it is none.
    fn read_depends_on(&mut self, object: Container<'a>) -> Option<()> {
        // Tasks with the same parents have mostly the same text.
        let mut known: HashMap<&[u8], u32> = HashMap::new();
        for (name, value) in object.pairs() {
            pgrx::check_for_interrupts!();
            let child = self.child("depends_on", name);
            let Item::Array(array) = value else { return None };
            self.graph.list_of[child] = match known.get(array.bytes()) {
                Some(list) => *list,
                None => {
                    let list = self.read_parents(array)?;
                    known.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
                    known.insert(array.bytes(), list);
                    list
                }
            };
        }
        Some(())
    }

    /// Adds a list of parents, and returns its number; `None` if it has other things than names.
    fn read_parents(&mut self, array: Container<'a>) -> Option<u32> {
        let mut parents = Vec::new();
        for item in array.items() {
            pgrx::check_for_interrupts!();
            let Item::Text(name) = item else { return None };
            memory::push(&mut parents, self.parent(name));
        }
        parents.sort_unstable();
        parents.dedup();
        let number = self.graph.lists.len() as u32;
        memory::push(&mut self.graph.lists, parents);
        Some(number)
    }

    /// Reads an object of rules; `None` if it is none.
    fn read_rules(&mut self, object: Container) -> Option<()> {
        for (name, value) in object.pairs() {
            let child = self.child("trigger_rules", name);
            let Item::Text(value) = value else { return None };
            let (name, value) = (&self.graph.names[child], String::from_utf8_lossy(value));
            self.graph.rules[child] = rule("trigger_rules", Some(name), &value);
        }
        Some(())
    }

    /// Returns the number of a task that the call creates.
    fn child(&self, argument: &str, name: &[u8]) -> usize {
        let number = self.numbers.get(name).map(|number| *number as usize).filter(|number| *number < self.graph.new);
        number.unwrap_or_else(|| {
            let name = String::from_utf8_lossy(name);
            let name = errors::cut(&name);
            errors::invalid(
                &format!("{argument} has task \"{name}\", which the call does not create"),
                &json!({ "argument": argument, "task_id": name }),
                "Use only names in task_ids as keys.",
            )
        })
    }

    /// Returns the number of a task of the call, or of the run.
    fn parent(&mut self, name: &'a [u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.graph.names.len() as u32;
        self.numbers.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
        self.numbers.insert(name, number);
        memory::push(&mut self.graph.names, memory::copy(&String::from_utf8_lossy(name)));
        number
    }
}
