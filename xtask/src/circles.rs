//! Import circles: modules of a crate that import each other, directly or through others.
//!
//! A module is a file or folder beside the crate's root. Items that the root re-exports count as those of their module;
//! the root itself does not count, because it names every module.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The roots of the crates that are checked.
const ROOTS: [&str; 6] = [
    "client/src/lib.rs",
    "client/server/src/lib.rs",
    "client/server/src/bin/workflow-server/main.rs",
    "extension/src/lib.rs",
    "tests/harness/lib.rs",
    "xtask/src/lib.rs",
];

/// For each module, the modules that it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Fails with each circle of the repository's crates.
pub fn check() -> Result<()> {
    let mut circles = Vec::new();
    for root in ROOTS {
        let imports = imports(&workspace::root().join(root))?;
        circles.extend(find_circles(&imports).iter().map(|circle| format!("{root}: {}", circle.join(" → "))));
    }
    match circles.is_empty() {
        true => Ok(()),
        false => bail!("modules import each other:\n{}", circles.join("\n")),
    }
}

fn imports(root: &Path) -> Result<Imports> {
    let folder = root.parent().context("a crate's root has a folder")?;
    let root_code = code(root)?;
    let mut imports = Imports::new();
    for path in glob::glob(&format!("{}/**/*.rs", folder.display()))?.flatten() {
        let inside = path.strip_prefix(folder)?;
        let first = inside.iter().next().context("a path has components")?.to_string_lossy();
        let module = first.trim_end_matches(".rs");
        // Binaries are crates of their own.
        if ["lib", "main", "bin"].contains(&module) {
            continue;
        }
        let names = names_after("crate::", &code(&path)?);
        let modules = names.into_iter().filter_map(|name| home(&name, &root_code)).filter(|home| home != module);
        imports.entry(module.to_owned()).or_default().extend(modules);
    }
    Ok(imports)
}

/// A file without its comments.
fn code(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n"))
}

/// The first name of each path after `prefix`: a and c of `crate::{a::B, c}`.
fn names_after(prefix: &str, code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in code.split(prefix).skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_members(group)),
            None => names.push(first_name(rest)),
        }
    }
    names
}

/// The first names in a group, up to its closing brace.
fn group_members(group: &str) -> Vec<String> {
    let (mut depth, mut member, mut members) = (0, String::new(), Vec::new());
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            other if depth == 0 => member.push(other),
            _ => (),
        }
    }
    members.push(member);
    members.iter().map(|member| first_name(member.trim())).filter(|name| !name.is_empty()).collect()
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// The module that a name of the root stands for: itself, or the module from which the root re-exports it.
fn home(name: &str, root_code: &str) -> Option<String> {
    if root_code.contains(&format!("mod {name};")) {
        return Some(name.to_owned());
    }
    let exports = root_code.split("use ").skip(1).filter_map(|export| export.split(';').next());
    let export =
        exports.filter(|export| export.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name));
    export.map(first_name).find(|module| root_code.contains(&format!("mod {module};")))
}

/// The shortest circle through each module that is in one, each circle once.
fn find_circles(imports: &Imports) -> BTreeSet<Vec<String>> {
    let circles = imports.keys().filter_map(|module| shortest_circle(module, imports));
    let turned = circles.map(|mut circle| {
        let first = circle.iter().enumerate().min_by_key(|(_, module)| *module).map_or(0, |(place, _)| place);
        circle.rotate_left(first);
        circle.push(circle[0].clone());
        circle
    });
    turned.collect()
}

/// The modules on the shortest way from a module back to itself.
fn shortest_circle(start: &str, imports: &Imports) -> Option<Vec<String>> {
    let mut ways = VecDeque::from([vec![start.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in imports.get(way.last()?)? {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_paths_and_groups() {
        let code =
            "use crate::{Error, list::{Page, query::Query},\n session};\nuse crate::pool::Pool; crate::json::time()";
        assert_eq!(names_after("crate::", code), ["Error", "list", "session", "pool", "json"]);
    }

    #[test]
    fn re_exports_count_as_their_module() {
        let root = "mod error;\npub mod pool;\npub use error::{Entity, Error};";
        assert_eq!(home("Error", root).as_deref(), Some("error"));
        assert_eq!(home("pool", root).as_deref(), Some("pool"));
        assert_eq!(home("Unknown", root), None);
    }

    #[test]
    fn circles_are_reported_once() {
        let imports = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a", "d"]), ("d", vec![])];
        let imports: Imports = imports
            .into_iter()
            .map(|(module, names)| (module.to_owned(), names.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(find_circles(&imports), BTreeSet::from([["a", "b", "c", "a"].map(str::to_owned).to_vec()]));
    }
}
