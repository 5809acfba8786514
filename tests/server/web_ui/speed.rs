//! Speed with 2,000 cells under load.

use super::{RUNS, Stage, TASKS};
use postgres::Client;
use std::time::{Duration, Instant};

#[test]
fn two_thousand_cells_stay_smooth_under_load() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open("");
    stage.browser.wait("document.querySelector('.recent .mark')");
    let opening = format!(
        "(async () => {{
            const start = performance.now();
            location.hash = '#/dags/{}';
            const frame = () => new Promise(requestAnimationFrame);
            while (document.querySelectorAll('.cell').length < {}) await frame();
            await frame();
            return [performance.now() - start, performance.getEntriesByName('grid', 'measure')[0].duration];
        }})()",
        stage.dag,
        RUNS * TASKS
    );
    let opened = stage.browser.evaluate(&opening);
    stage.wait_live();
    stage.browser.evaluate(
        "window.gaps = []; (() => { let last = performance.now();
         const frame = now => { gaps.push(now - last); last = now; requestAnimationFrame(frame); }; requestAnimationFrame(frame); })()",
    );
    let transitions = storm(&mut stage.db.connect(), Duration::from_secs(3));
    stage.wait_true();
    let gaps = "(() => { const sorted = gaps.toSorted((a, b) => a - b); return [sorted.length, sorted[sorted.length >> 1], sorted.at(-1)]; })()";
    let gaps = stage.browser.evaluate(gaps);
    println!("2,000 cells: shown {} ms after the click, of which built in {} ms", opened[0], opened[1]);
    println!("{transitions} transitions in 3 s: {} frames, median {} ms, longest {} ms", gaps[0], gaps[1], gaps[2]);
    assert!(transitions > 600, "only {transitions} transitions in 3 s");
    assert!(opened[1].as_f64() < Some(1000.0), "{opened}");
    assert!(gaps[2].as_f64() < Some(1000.0), "{gaps}");
    stage.assert_no_complaints();
}

/// Moves random tasks in batches of 10; returns the number of transitions.
fn storm(client: &mut Client, length: Duration) -> u64 {
    let sql = "UPDATE workflow.task_instances SET state = CASE state WHEN 'running' THEN 'failed' WHEN 'failed' THEN 'retrying' ELSE 'running' END \
               WHERE id IN (SELECT id FROM workflow.task_instances WHERE state IN ('queued', 'running', 'failed', 'retrying') ORDER BY random() LIMIT 10)";
    let (start, mut transitions) = (Instant::now(), 0);
    while start.elapsed() < length {
        transitions += client.execute(sql, &[]).unwrap();
        std::thread::sleep(Duration::from_millis(15));
    }
    transitions
}
