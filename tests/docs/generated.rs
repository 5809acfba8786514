//! The generated pages are those that `cargo xtask docs` would write.

use pg_workflow_tests::{own_cluster, server_binary};
use xtask::stack::postgres::PRELOADED;

pub fn generated_pages_are_up_to_date() {
    let (cluster, db) = own_cluster("docs-generated", &[PRELOADED]);
    let pages = xtask::docs::pages(&cluster, "workflow", &server_binary()).expect("pages");
    assert_eq!(pages.len(), 3);
    for page in pages {
        let text = std::fs::read_to_string(&page.path).expect("a page");
        assert!(text == page.text, "{} is out of date: run `cargo xtask docs`", page.path.display());
    }
    drop(db);
}
