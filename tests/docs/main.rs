//! The documents are true: every block of every page runs and prints what the page shows, tables list what exists, links
//! lead somewhere, and generated pages are up to date.
//!
//! `cargo xtask test -- --test docs` runs all of it, `… -- --test docs docs/tour.md` one page. Each page is a test, found
//! when the tests start, so a change of a page compiles nothing.

mod console;
mod generated;
mod markdown;
mod mask;
mod page;
mod rights;
mod rust;
mod session;
mod tables;
mod tree;
mod worker;

use libtest_mimic::{Arguments, Trial};
use markdown::Page;

/// Tests named by their paths.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
            $module::$name();
            Ok(())
        })),*]
    };
}

fn main() {
    let mut tests = tests![
        generated::generated_pages_are_up_to_date,
        mask::mask_hides_only_values_that_differ,
        page::harness_notices_wrong_output,
        rights::roles_have_the_rights_on_tables_of_the_page,
        rights::roles_have_the_rights_on_functions_of_the_page,
        rights::roles_have_the_rights_on_the_schema_of_the_page,
        tables::errors_have_the_keys_of_the_page,
        tables::events_have_the_fields_of_the_page,
        tables::paths_take_the_parameters_of_the_page,
        tables::drivers_have_the_exceptions_of_the_page,
        tables::transitions_are_those_of_the_machine,
        tree::every_link_has_a_target,
        tree::every_page_is_in_the_summary,
        tree::every_page_says_whom_it_is_for,
        tree::every_source_file_is_on_the_map,
        tree::every_named_test_exists,
        tree::readme_and_architecture_are_short,
        worker::worker_goes_on_after_a_failure_of_a_lost_claim,
        worker::workers_run_every_task_once,
    ];
    tests.extend(Page::all().into_iter().map(|page| {
        Trial::test(page.name.clone(), move || {
            page::run(&page);
            Ok(())
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}
