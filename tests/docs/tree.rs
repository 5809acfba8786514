//! Links, the table of contents, the map, and names of tests lead to things that exist.

use crate::markdown::{Page, code, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The documents beside README.md and docs/.
const OTHERS: [&str; 4] = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Folders with source files, each of which is on the map.
const SOURCES: [&str; 6] =
    ["sql/*.sql", "extension/**/*.rs", "client/**/*.rs", "tests/**/*.rs", "xtask/**/*.rs", "docker/*"];

/// Pages whose heads say for whom they are.
fn has_head(page: &Page) -> bool {
    !["README.md", "docs/SUMMARY.md"].contains(&page.name.as_str())
}

fn documents() -> Vec<Page> {
    let others = OTHERS.iter().filter(|name| root().join(name).exists()).map(|name| Page::read(name));
    Page::all().into_iter().chain(others).collect()
}

pub fn every_link_has_a_target() {
    let mut faults = Vec::new();
    for page in documents() {
        for link in page.links().iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').map_or((&**link, None), |(file, anchor)| (file, Some(anchor)));
            let path = page.resolve(file);
            if !path.exists() {
                faults.push(format!("{}: there is no {link}", page.name));
            } else if let Some(anchor) = anchor.filter(|_| path.extension().is_some_and(|extension| extension == "md"))
            {
                let target = Page { name: link.clone(), text: fs::read_to_string(&path).expect("text") };
                if !target.anchors().iter().any(|known| known == anchor) {
                    faults.push(format!("{}: {link} has no such heading", page.name));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

pub fn every_page_is_in_the_summary() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<String> = summary.links().into_iter().filter(|link| !link.starts_with("..")).collect();
    let set: BTreeSet<String> = listed.iter().map(|link| format!("docs/{link}")).collect();
    assert_eq!(set.len(), listed.len(), "a page is listed twice");
    let pages = Page::all().into_iter().map(|page| page.name);
    let pages: BTreeSet<String> = pages.filter(|name| !["README.md", "docs/SUMMARY.md"].contains(&&**name)).collect();
    let (missing, made_up) = (pages.difference(&set), set.difference(&pages));
    let faults: Vec<String> = missing
        .map(|name| format!("docs/SUMMARY.md does not list {name}"))
        .chain(made_up.map(|name| format!("docs/SUMMARY.md lists {name}, which does not exist")))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

pub fn every_page_says_whom_it_is_for() {
    let mut faults = Vec::new();
    for page in Page::all().into_iter().filter(has_head) {
        let mut lines = page.text.lines().filter(|line| !line.trim().is_empty());
        let (title, head) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if !title.starts_with("# ") || !head.starts_with("For ") || !page.text.contains("answers") {
            faults.push(format!("{}: its head is not `# Title` and `For …: answers …`", page.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The part of a page under a heading.
fn section<'a>(page: &'a Page, heading: &str) -> &'a str {
    let start = page.text.find(&format!("\n## {heading}\n")).map_or(page.text.len(), |place| place + 1);
    let rest = &page.text[start..];
    &rest[..rest[1.min(rest.len())..].find("\n## ").map_or(rest.len(), |end| end + 1)]
}

pub fn readme_and_architecture_are_short() {
    for (name, limit) in [("README.md", 250), ("ARCHITECTURE.md", 200)] {
        let lines = Page::read(name).text.lines().count();
        assert!(lines <= limit, "{name} has {lines} lines, more than {limit}");
    }
}

pub fn every_source_file_is_on_the_map() {
    let architecture = Page::read("ARCHITECTURE.md");
    let map = section(&architecture, "Map");
    assert!(!map.is_empty(), "ARCHITECTURE.md has no map");
    let named: Vec<String> = map.lines().flat_map(code).map(|name| name.trim_end_matches('/').to_owned()).collect();
    let mut missing = Vec::new();
    for pattern in SOURCES {
        for path in glob::glob(&root().join(pattern).to_string_lossy()).expect("a pattern").flatten() {
            let path = path.strip_prefix(root()).expect("below it").to_owned();
            if !named.iter().any(|name| is_named(&path, name)) {
                missing.push(path.display().to_string());
            }
        }
    }
    let gone: Vec<&String> = named.iter().filter(|name| name.contains(['/', '.']) && !exists(name)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not on the map: {missing:#?}\nnot in the tree: {gone:#?}");
}

/// Whether a name on the map is this file, or one of its folders other than the uppermost.
fn is_named(path: &Path, name: &str) -> bool {
    let name = Path::new(name);
    path.ancestors().any(|part| part.components().count() > 1 && part.ends_with(name))
}

fn exists(name: &str) -> bool {
    let pattern = |prefix: &str| root().join(format!("{prefix}{name}")).to_string_lossy().into_owned();
    [pattern(""), pattern("**/src/**/"), pattern("sql/"), pattern("tests/**/"), pattern("docker/")]
        .iter()
        .any(|pattern| glob::glob(pattern).expect("a pattern").flatten().next().is_some())
}

pub fn every_named_test_exists() {
    let tests = tests();
    let mut faults = Vec::new();
    for (page, heading) in [
        ("ARCHITECTURE.md", "Invariants"),
        ("README.md", "Guarantees"),
        ("SECURITY.md", "Attacks"),
        ("docs/reader-state.md", "Events"),
    ] {
        let page = Page::read(page);
        let named: Vec<String> =
            section(&page, heading).lines().flat_map(code).filter(|name| name.contains("::")).collect();
        for name in named {
            let wanted = format!("::{}", name.trim_end_matches('*'));
            let is_it =
                |test: &String| if name.ends_with('*') { test.contains(&wanted) } else { test.ends_with(&wanted) };
            if !tests.iter().any(is_it) {
                faults.push(format!("{}: there is no test {name}", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Every function of the tests: `::tests::extension::guard::each_pair_of_states_…`, with the modules of its file.
fn tests() -> Vec<String> {
    let mut tests = Vec::new();
    for pattern in ["tests/**/*.rs", "xtask/**/*.rs", "client/**/*.rs", "extension/**/*.rs"] {
        for path in glob::glob(&root().join(pattern).to_string_lossy()).expect("a pattern").flatten() {
            let module = path.strip_prefix(root()).expect("below it").with_extension("");
            let module = module.to_string_lossy().replace('/', "::");
            let source = fs::read_to_string(&path).expect("text");
            let functions = source.lines().filter_map(|line| line.split_once("fn ")?.1.split('(').next());
            // The model's tests are made from a list of their names.
            let listed = source.lines().filter_map(|line| Some(line.split_once(": Feed(")?.0.trim()));
            tests.extend(functions.chain(listed).map(|function| format!("::{module}::{function}")));
        }
    }
    tests
}
