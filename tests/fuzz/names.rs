//! Names of entities: the same in both databases, where IDs, times and numbers of transactions differ.

use regex::{Captures, Regex};
use std::collections::HashMap;
use std::sync::LazyLock;

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const TIME: &str = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:\d\d)?)?";

static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{([drt]\d+|database)\}").expect("a pattern"));
static VARYING: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("{UUID}|{TIME}")).expect("a pattern"));

/// The entities of one sequence in one database.
pub struct Names {
    database: String,
    ids: HashMap<String, String>,
    names: HashMap<String, String>,
}

impl Names {
    pub fn new(database: &str) -> Names {
        Names { database: database.to_owned(), ids: HashMap::new(), names: HashMap::new() }
    }

    pub fn add(&mut self, name: &str, id: &str) {
        self.ids.insert(name.to_owned(), id.to_owned());
        self.names.insert(id.to_owned(), name.to_owned());
    }

    /// Replaces names by IDs. An entity that was not created has an ID of its own, which nothing has.
    pub fn fill(&self, sql: &str) -> String {
        let id = |found: &Captures<'_>| match &found[1] {
            "database" => self.database.clone(),
            name => self.ids.get(name).cloned().unwrap_or_else(|| missing(name)),
        };
        NAME.replace_all(sql, id).into_owned()
    }

    /// Replaces IDs by names, and times.
    pub fn normalize(&self, text: &str) -> String {
        let name = |found: &Captures<'_>| match (self.names.get(&found[0]), found[0].contains(':')) {
            (Some(name), _) => name.clone(),
            (None, true) => "(time)".to_owned(),
            (None, false) => "(id)".to_owned(),
        };
        VARYING.replace_all(text, name).replace(&self.database, "(database)")
    }
}

fn missing(name: &str) -> String {
    let (kind, number) = name.split_at(1);
    format!("{:08x}-0000-4000-8000-{:012x}", kind.as_bytes()[0], number.parse().unwrap_or(0))
}
