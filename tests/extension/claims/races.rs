//! Sixteen sessions claim, end, release, renew, reap, cancel, move by hand, pause and delete at the same time. Afterwards the
//! history tells whose words counted.

use super::{Claim, enqueue_in};
use fastrand::Rng;
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

const SESSIONS: u64 = 16;
const LASTS: Duration = Duration::from_secs(8);
/// Errors that a caller of these functions must expect: lost claims and moves, and tasks that are deleted.
const EXPECTED: [SqlState; 3] =
    [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::NO_DATA_FOUND, SqlState::CHECK_VIOLATION];

/// What a session was told: the claims that it got, and those that it ended, with the version of the task.
#[derive(Default)]
struct Told {
    claimed: Vec<String>,
    ended: Vec<(String, i64)>,
}

struct Session<'a> {
    client: Client,
    rng: Rng,
    world: &'a World,
    /// Claims that may have been lost meanwhile.
    held: Vec<Claim>,
    told: Told,
}

struct World {
    dags: Vec<Uuid>,
    runs: Vec<Uuid>,
    tasks: Vec<Uuid>,
}

impl World {
    fn create(client: &mut Client) -> World {
        let mut world = World { dags: Vec::new(), runs: Vec::new(), tasks: Vec::new() };
        for _ in 0..6 {
            let (dag, run) = create_run(client);
            let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY(SELECT 't' || n FROM generate_series(1, 40) AS n),
                           queue => 'default', priority => 3, max_tries => 4)";
            world.tasks.extend(client.query(sql, &[&run]).unwrap().iter().map(|row| row.get::<_, Uuid>(0)));
            world.dags.push(dag);
            world.runs.push(run);
        }
        world
    }
}

impl Session<'_> {
    fn run(mut self, until: Instant) -> Told {
        while Instant::now() < until {
            let result = self.step();
            if let Err(error) = result {
                let code = error.code().unwrap_or_else(|| panic!("{error:?}"));
                assert!(EXPECTED.contains(code), "{error:?}");
            }
        }
        self.told
    }

    fn step(&mut self) -> Result<(), postgres::Error> {
        match self.rng.u8(0..100) {
            0..35 => self.claim(),
            35..65 => self.end(),
            65..73 => self.release_or_renew(),
            73..78 => self.client.query("SELECT workflow.reap_claims(5)", &[]).map(drop),
            78..86 => self.move_by_hand(),
            86..89 => self.cancel(),
            89..93 => self.pause(),
            93..95 => self
                .client
                .query("SELECT workflow.set_queue('default', slots => $1)", &[&self.rng.i32(5..30)])
                .map(drop),
            95..97 => self.delete(),
            _ => self.enqueue(),
        }
    }

    /// With a lease that often runs out; sometimes in a transaction that is rolled back.
    fn claim(&mut self) -> Result<(), postgres::Error> {
        let lease = ["1 ms", "20 ms", "1 min"][self.rng.usize(0..3)];
        let sql = format!("SELECT * FROM workflow.claim_tasks('w', max => $1, lease => '{lease}')");
        let mut transaction = self.client.transaction()?;
        let claims: Vec<Claim> = transaction.query(&sql, &[&self.rng.i32(1..4)])?.iter().map(Claim::of).collect();
        if self.rng.u8(0..10) == 0 {
            return transaction.rollback();
        }
        transaction.commit()?;
        self.told.claimed.extend(claims.iter().map(|claim| claim.claim.clone()));
        self.held.extend(claims);
        Ok(())
    }

    fn pick(&mut self) -> Option<String> {
        if self.held.is_empty() {
            return None;
        }
        let n = self.rng.usize(0..self.held.len());
        // Sometimes it is kept, and ended again.
        Some(if self.rng.bool() { self.held[n].claim.clone() } else { self.held.swap_remove(n).claim })
    }

    fn end(&mut self) -> Result<(), postgres::Error> {
        let Some(claim) = self.pick() else { return Ok(()) };
        let version: i64 = if self.rng.bool() {
            self.client.query_one("SELECT workflow.complete_claim($1)", &[&claim])?.get(0)
        } else {
            let sql = "SELECT version FROM workflow.fail_claim($1, 'boom', '1 ms')";
            self.client.query_one(sql, &[&claim])?.get(0)
        };
        self.told.ended.push((claim, version));
        Ok(())
    }

    fn release_or_renew(&mut self) -> Result<(), postgres::Error> {
        let claims: Vec<String> = (0..self.rng.usize(1..4)).filter_map(|_| self.pick()).collect();
        let function = if self.rng.bool() { "release_claims($1)" } else { "renew_claims($1, '1 min')" };
        self.client.query(&format!("SELECT * FROM workflow.{function}"), &[&claims]).map(drop)
    }

    fn move_by_hand(&mut self) -> Result<(), postgres::Error> {
        let task = self.rng.choice(&self.world.tasks).unwrap();
        let to = *self
            .rng
            .choice(["failed", "retrying", "running", "success", "upstream_failed", "queued"])
            .as_ref()
            .unwrap();
        if self.rng.bool() {
            let sql = "UPDATE workflow.task_instances SET state = $1 WHERE id = $2";
            return self.client.execute(sql, &[&to, task]).map(drop);
        }
        let sql = "SELECT workflow.transition_many('task_instance', ARRAY[$1::uuid], NULL, $2)";
        self.client.query(sql, &[task, &to]).map(drop)
    }

    fn cancel(&mut self) -> Result<(), postgres::Error> {
        let task = self.rng.choice(&self.world.tasks).unwrap();
        self.client.query("SELECT workflow.request_cancel($1)", &[task]).map(drop)
    }

    fn pause(&mut self) -> Result<(), postgres::Error> {
        let dag = self.rng.choice(&self.world.dags).unwrap();
        let function = if self.rng.u8(0..3) == 0 { "pause_dag" } else { "unpause_dag" };
        self.client.query(&format!("SELECT workflow.{function}($1)"), &[dag]).map(drop)
    }

    fn delete(&mut self) -> Result<(), postgres::Error> {
        let task = self.rng.choice(&self.world.tasks).unwrap();
        self.client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[task]).map(drop)
    }

    fn enqueue(&mut self) -> Result<(), postgres::Error> {
        let tasks: Vec<Uuid> = (0..5).map(|_| *self.rng.choice(&self.world.tasks).unwrap()).collect();
        let sql = "SELECT workflow.enqueue_task_instances($1, 'default', $2)";
        self.client.query(sql, &[&tasks, &self.rng.i32(0..10)]).map(drop)
    }
}

/// Each end that a session was told of is one event, of the version after its claim, and no two claims have the same.
fn check_words(client: &mut Client, told: &[Told]) {
    let claimed: Vec<&String> = told.iter().flat_map(|told| &told.claimed).collect();
    let distinct: HashSet<&String> = claimed.iter().copied().collect();
    assert_eq!(distinct.len(), claimed.len(), "a claim was given out twice");
    let events: HashMap<(Uuid, i64), (String, Option<String>)> = client
        .query(
            "SELECT entity_id, version, new_state, request_id FROM workflow.state_history WHERE new_state IS NOT NULL",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3))))
        .collect();
    let mut ends: HashMap<(Uuid, i64), &str> = HashMap::new();
    for (claim, version) in told.iter().flat_map(|told| &told.ended) {
        let mut parts = claim.split('.');
        let task: Uuid = parts.next().unwrap().parse().unwrap();
        let claimed: i64 = parts.next().unwrap().parse().unwrap();
        assert_eq!(*version, claimed + 1, "{claim}");
        assert_eq!(*ends.entry((task, *version)).or_insert(claim), claim, "two claims ended one attempt");
        let (_, request_id) = &events[&(task, *version)];
        assert_eq!(request_id.as_deref(), Some(&*format!("claim {claimed}")), "{claim}");
        assert_eq!(events[&(task, claimed)].0, "running", "{claim}");
    }
    assert!(ends.len() > 100, "only {} ends", ends.len());
}

#[test]
fn words_of_one_holder_count_whatever_happens_at_the_same_time() {
    let db = Db::new();
    let client = &mut db.connect();
    let world = &World::create(client);
    let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    let until = Instant::now() + LASTS;
    let told: Vec<Told> = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|n| {
                let client = db.connect();
                let rng = Rng::with_seed(seed * 1000 + n);
                let session = Session { client, rng, world, held: Vec::new(), told: Told::default() };
                scope.spawn(move || session.run(until))
            })
            .collect();
        sessions.into_iter().map(|session| session.join().unwrap()).collect()
    });
    check_words(client, &told);
    let wrong = "SELECT count(*) FROM workflow.task_instances
                 WHERE (worker IS NULL) <> (lease_expires_at IS NULL) OR (state <> 'running' AND worker IS NOT NULL)";
    assert_eq!(client.query_one(wrong, &[]).unwrap().get::<_, i64>(0), 0);

    // Nothing is lost: every task that waits in the queue can be claimed, and ends.
    client.batch_execute("SELECT workflow.set_queue('default', slots => 2147483647)").unwrap();
    client.batch_execute("SELECT workflow.unpause_dag(id) FROM workflow.dags").unwrap();
    client.batch_execute("UPDATE workflow.task_instances SET not_before = NULL WHERE not_before IS NOT NULL").unwrap();
    client.batch_execute("SELECT workflow.release_claims(ARRAY(SELECT NULL::text WHERE false))").unwrap();
    let by_hand = "SELECT workflow.transition_task_instance(id, 'running', 'failed') FROM workflow.task_instances WHERE state = 'running'";
    client.batch_execute(by_hand).unwrap();
    let (_, run) = create_run(client);
    enqueue_in(client, run, "default", 1);
    let waits =
        "SELECT count(*) FROM workflow.task_instances WHERE state IN ('queued', 'retrying') AND queue_id IS NOT NULL";
    let mut before = i64::MAX;
    loop {
        let left: i64 = client.query_one(waits, &[]).unwrap().get(0);
        if left == 0 {
            break;
        }
        assert!(left < before, "{left} tasks wait, and no claim finds them");
        before = left;
        for claim in super::claim(client, "default", 100) {
            client.query("SELECT workflow.complete_claim($1)", &[&claim.claim]).unwrap();
        }
    }
    assert_eq!(client.query("SELECT FROM workflow.claim_tasks('w', max => 1000)", &[]).unwrap().len(), 0);
}
