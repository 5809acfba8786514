//! Restarts of the server, tokens, and errors.

use super::{Stage, start_server};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;
use xtask::stack::port;

#[test]
fn page_reconnects_after_server_restart() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open_grid();
    stage.browser.evaluate("window.marker = 'not loaded again'");
    let task = stage.task("notify_stock");
    let transitions = [
        (State::Queued, State::Running),
        (State::Running, State::Failed),
        (State::Failed, State::Retrying),
        (State::Retrying, State::Running),
    ];
    // Before the first restart, the page has no event to resume from.
    for pair in transitions.chunks(2) {
        stage.server.take().unwrap().terminate().unwrap();
        stage.browser.wait("document.querySelector('#live').textContent === 'reconnecting'");
        let make = |client: &mut Client, (from, to): (State, State)| {
            Transition::of(task).from(from).to(to).run(client).unwrap();
        };
        let client = &mut stage.db.connect();
        make(client, pair[0]);
        stage.restart(&[]);
        stage.wait_state(task, pair[0].1.as_str());
        stage.wait_live();
        make(client, pair[1]);
        stage.wait_state(task, pair[1].1.as_str());
    }
    stage.wait_true();
    assert_eq!(stage.browser.evaluate("window.marker"), "not loaded again");
    stage.assert_no_complaints();
}

#[test]
fn page_asks_for_token_and_explains_problems() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open_grid();
    stage.restart(&["--token", "s3cret"]);
    let why = "document.querySelector('dialog[open] p')?.textContent ?? ''";
    for (token, expected) in [("wrong", "requires a token"), ("s3cret", "does not accept")] {
        stage.browser.wait(&format!("({why}).includes('{expected}')"));
        for letter in token.chars() {
            stage.browser.press(&letter.to_string());
        }
        stage.browser.press("Enter");
    }
    stage.wait_live();
    stage.wait_true();

    // An unavailable database, then an unknown run.
    stage.server = None;
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/postgres", port::free().unwrap());
    stage.server = Some(start_server(&nowhere, &stage.redis, stage.port, &[]).unwrap());
    let problem = "(document.querySelector('#problem:not([hidden])')?.textContent ?? '')";
    stage.browser.open("about:blank");
    stage.open("#/dags");
    stage.browser.wait(&format!("{problem}.includes('Server unavailable')"));
    stage.browser.screenshot("problem");
    stage.restart(&[]);
    stage.browser.wait("document.querySelectorAll('.recent .mark').length >= 14");
    assert_eq!(stage.browser.evaluate(problem), "");
    stage.open(&format!("#/runs/{}", Uuid::nil()));
    stage.browser.wait(&format!("{problem}.includes('no dag run')"));
    stage.open("#/dags");
    stage.wait_live();
    assert_eq!(stage.browser.evaluate(problem), "");
    stage.assert_no_complaints();
}
