//! The database refuses the change of one task of three, in each way that it has, in each function: what becomes of the
//! others. An administrator can add triggers, constraints and policies to the tables of the extension.

use super::{enqueue_in, names, state_of};
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;
use std::sync::{Arc, Mutex};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

/// What refuses the change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// A BEFORE trigger that returns NULL.
    Withheld,
    /// An AFTER trigger that fails.
    Raised,
    /// A constraint trigger that fails at the commit.
    Deferred,
    Check,
    /// A policy of row security.
    Policy,
    /// Another transaction has locked the row.
    Locked,
}

const FAULTS: [Fault; 6] =
    [Fault::Withheld, Fault::Raised, Fault::Deferred, Fault::Check, Fault::Policy, Fault::Locked];

impl Fault {
    /// Lets the database refuse that a row becomes one for which the condition holds.
    fn begin(self, owner: &mut Client, table: &str, condition: &str) {
        let of_new = condition.replace("$", "NEW.");
        let trigger = |timing: &str, body: &str| {
            format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
                 CREATE {timing} FOR EACH ROW WHEN ({of_new}) EXECUTE FUNCTION refuse()"
            )
        };
        let of_row = condition.replace("$", "");
        let sql = match self {
            Fault::Withheld => trigger(&format!("TRIGGER refuse BEFORE UPDATE ON workflow.{table}"), "RETURN NULL"),
            Fault::Raised => {
                trigger(&format!("TRIGGER refuse AFTER UPDATE ON workflow.{table}"), "RAISE 'not this one'")
            }
            Fault::Deferred => trigger(
                &format!("CONSTRAINT TRIGGER refuse AFTER UPDATE ON workflow.{table} DEFERRABLE INITIALLY DEFERRED"),
                "RAISE 'not this one'",
            ),
            Fault::Check => {
                format!("ALTER TABLE workflow.{table} ADD CONSTRAINT refuse CHECK (NOT ({of_row})) NOT VALID")
            }
            Fault::Policy => format!(
                "CREATE POLICY refuse ON workflow.{table} AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (NOT ({of_row}))"
            ),
            Fault::Locked => {
                let names_it = of_row.split(" AND ").next().unwrap();
                format!("BEGIN; SELECT FROM workflow.{table} WHERE {names_it} FOR UPDATE")
            }
        };
        owner.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn end(self, owner: &mut Client, table: &str) {
        let sql = match self {
            Fault::Withheld | Fault::Raised | Fault::Deferred => format!("DROP TRIGGER refuse ON workflow.{table}"),
            Fault::Check => format!("ALTER TABLE workflow.{table} DROP CONSTRAINT refuse"),
            Fault::Policy => format!("DROP POLICY refuse ON workflow.{table}"),
            Fault::Locked => "ROLLBACK".to_owned(),
        };
        owner.batch_execute(&sql).unwrap();
    }

    /// The error that the change gets if nothing survives it.
    fn code(self) -> SqlState {
        match self {
            Fault::Withheld => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Fault::Raised | Fault::Deferred => SqlState::RAISE_EXCEPTION,
            Fault::Check => SqlState::CHECK_VIOLATION,
            Fault::Policy => SqlState::INSUFFICIENT_PRIVILEGE,
            Fault::Locked => SqlState::LOCK_NOT_AVAILABLE,
        }
    }
}

/// Three tasks in a queue of their own, a writer who works on them, and an administrator.
struct Case {
    fault: Fault,
    is_preloaded: bool,
    owner: Client,
    client: Client,
    warnings: Arc<Mutex<Vec<String>>>,
    queue: String,
    run: Uuid,
    tasks: Vec<Uuid>,
}

impl Case {
    fn refuse(&mut self, condition: &str) {
        let condition = format!("$task_id = '{}_1' AND {condition}", self.queue);
        self.fault.begin(&mut self.owner, "task_instances", &condition);
    }

    fn stop_refusing(&mut self) {
        self.fault.end(&mut self.owner, "task_instances");
    }

    fn claim(&mut self, lease: &str) -> Result<Vec<super::Claim>, postgres::Error> {
        let sql = "SELECT * FROM workflow.claim_tasks('w', ARRAY[$1], 10, $2::text::interval)";
        Ok(self.client.query(sql, &[&self.queue, &lease])?.iter().map(super::Claim::of).collect())
    }

    /// Claims all three.
    fn claim_all(&mut self, lease: &str) -> Vec<String> {
        let mut claims = self.claim(lease).unwrap();
        claims.sort_by(|a, b| a.task_id.cmp(&b.task_id));
        assert_eq!(claims.len(), 3);
        claims.into_iter().map(|claim| claim.claim).collect()
    }

    fn states(&mut self) -> Vec<String> {
        self.tasks.clone().into_iter().map(|task| state_of(&mut self.client, task)).collect()
    }

    /// The warnings since the last call.
    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap())
    }

    /// Asserts that a warning, and no other one, names the refused task.
    fn assert_told(&mut self, action: &str) {
        let told = self.told();
        let begin = format!("cannot {action} task_instance {}: ", self.tasks[1]);
        let is_right =
            told.iter().all(|line| line.starts_with(&begin)) && told.is_empty() == (self.fault == Fault::Locked);
        assert!(is_right, "{:?}: {told:?}", self.fault);
    }

    /// Ends what is left.
    fn clean(&mut self) {
        self.client.query("SELECT workflow.request_cancel($1)", &[&self.run]).unwrap();
        let sql = "UPDATE workflow.task_instances SET state = 'failed' WHERE state = 'running'";
        self.owner.batch_execute(sql).unwrap();
    }
}

/// Runs a case for each fault.
fn each(db: &Db, is_preloaded: bool, faults: &[Fault], test: fn(&mut Case)) {
    let mut owner = db.connect();
    let writer = create_writer(&mut owner);
    for fault in faults {
        let (mut client, warnings) = connect_with_warnings(db);
        client.batch_execute(&format!("SET SESSION AUTHORIZATION {writer}; SET lock_timeout = '50 ms'")).unwrap();
        let queue = format!("{fault:?}").to_lowercase();
        let (_, run) = create_run(&mut client);
        let tasks = enqueue_in(&mut client, run, &queue, 3);
        let owner = db.connect();
        let mut case = Case { fault: *fault, is_preloaded, owner, client, warnings, queue, run, tasks };
        test(&mut case);
        case.clean();
    }
}

fn with_and_without_preloading(name: &str, test: fn(&mut Case)) {
    for is_preloaded in [true, false] {
        let preloaded: &[(&str, &str)] = if is_preloaded { &[PRELOADED] } else { &[] };
        let (_cluster, db) = own_cluster(&format!("{name}-{is_preloaded}"), preloaded);
        each(&db, is_preloaded, &FAULTS, test);
    }
}

#[test]
fn refused_claim_keeps_no_other_task_from_workers() {
    with_and_without_preloading("refused-claim", |case| {
        case.refuse("$state = 'running'");
        let claimed = case.claim("1 h");
        if case.fault == Fault::Deferred {
            // It is the caller's commit that is refused.
            assert_eq!(claimed.unwrap_err().code(), Some(&case.fault.code()));
            case.stop_refusing();
            return;
        }
        let queue = case.queue.clone();
        let claimed = claimed.unwrap_or_else(|error| panic!("{:?}: {error:?}", case.fault));
        assert_eq!(names(&claimed), [format!("{queue}_0"), format!("{queue}_2")]);
        case.assert_told("claim");
        // The session waits before it tries again, and tells it only then.
        assert!(case.claim("1 h").unwrap().is_empty());
        assert!(case.told().is_empty());
        case.stop_refusing();
        std::mem::swap(&mut case.owner, &mut case.client);
        let later = case.claim("1 h").unwrap();
        std::mem::swap(&mut case.owner, &mut case.client);
        assert_eq!(names(&later), [format!("{queue}_1")], "another session");
    });
}

#[test]
fn refused_renewal_keeps_no_other_lease_from_renewal() {
    with_and_without_preloading("refused-renewal", |case| {
        let held = case.claim_all("2 s");
        case.refuse("$lease_expires_at > $start_date + interval '1 min'");
        let renew = "SELECT outcome FROM workflow.renew_claims($1, '1 h')";
        let renewed = case.client.query(renew, &[&held]);
        if case.fault == Fault::Deferred {
            assert!(renewed.is_err(), "{:?}", case.fault);
            case.stop_refusing();
            return;
        }
        let renewed = renewed.unwrap_or_else(|error| panic!("{:?}: {error:?}", case.fault));
        let renewed: Vec<String> = renewed.iter().map(|row| row.get(0)).collect();
        let expected = if case.fault == Fault::Locked { "renewed" } else { "refused" };
        assert_eq!(renewed, ["renewed", expected, "renewed"], "{:?}", case.fault);
        case.assert_told("renew the claim of");
        case.stop_refusing();
        let reap = |case: &mut Case| -> Vec<Uuid> {
            let reaped = case.client.query("SELECT id FROM workflow.reap_claims()", &[]).unwrap();
            reaped.iter().map(|row| row.get(0)).collect()
        };
        case.client.query("SELECT pg_sleep(2.1)", &[]).unwrap();
        if case.fault == Fault::Locked {
            assert!(reap(case).is_empty(), "its worker has time for the next renewal");
        }
        if case.fault != Fault::Locked || !case.is_preloaded {
            let task = case.tasks[1];
            wait_until("the end of the lease", || reap(case) == [task]);
        }
    });
}

#[test]
fn refused_end_is_an_error_and_keeps_the_others_alone() {
    with_and_without_preloading("refused-end", |case| {
        let held = case.claim_all("1 h");
        case.refuse("$state <> 'running'");
        let finish = "SELECT outcome FROM workflow.finish_claims((
            SELECT jsonb_agg(jsonb_build_object('claim', c, 'state', 'success')) FROM unnest($1::text[]) AS c))";
        let release = "SELECT outcome FROM workflow.release_claims($1)";
        for all in [finish, release] {
            let error = case.client.query(all, &[&held]).unwrap_err();
            assert_eq!(error.code(), Some(&case.fault.code()), "{:?}: {error:?}", case.fault);
            assert_eq!(case.states(), ["running"; 3], "{:?}: all or none", case.fault);
        }
        for (sql, states) in [
            ("SELECT workflow.complete_claim($1)", ["success", "running", "running"]),
            ("SELECT workflow.fail_claim($1, 'x')", ["success", "running", "running"]),
            ("SELECT workflow.release_claims(ARRAY[$1])", ["success", "running", "retrying"]),
        ] {
            let error = case.client.query(sql, &[&held[1]]).unwrap_err();
            assert_eq!(error.code(), Some(&case.fault.code()), "{:?}: {error:?}", case.fault);
            let alone = if states[2] == "retrying" { &held[2] } else { &held[0] };
            if sql.contains("complete") || sql.contains("release") {
                case.client.query(sql, &[alone]).unwrap();
            }
            assert_eq!(case.states(), states, "{:?}", case.fault);
        }
        case.stop_refusing();
    });
}

#[test]
fn refused_reap_keeps_no_other_claim_from_ending() {
    with_and_without_preloading("refused-reap", |case| {
        case.claim_all("1 us");
        case.refuse("$state = 'failed'");
        let reaped = case.client.query("SELECT id FROM workflow.reap_claims()", &[]);
        let reaped = reaped.unwrap_or_else(|error| panic!("{:?}: {error:?}", case.fault));
        let reaped: Vec<Uuid> = reaped.iter().map(|row| row.get(0)).collect();
        assert_eq!(reaped, [case.tasks[0], case.tasks[2]], "{:?}", case.fault);
        case.assert_told("end the claim of");
        case.stop_refusing();
    });
}

#[test]
fn refused_reap_ends_no_wait() {
    with_and_without_preloading("refused-wait", |case| {
        case.claim_all("1 us");
        case.refuse("$state = 'failed'");
        wait_until("the turn of a waiting session", || {
            case.client.query("CALL workflow.wait_for_tasks('{nowhere}', '0')", &[]).unwrap();
            case.states() == ["failed", "running", "failed"]
        });
        case.assert_told("end the claim of");
        case.stop_refusing();
    });
}

#[test]
fn refused_task_keeps_its_run_from_being_cancelled() {
    with_and_without_preloading("refused-cancel", |case| {
        case.refuse("$state = 'skipped'");
        let cancel = "SELECT workflow.request_cancel($1)";
        let error = case.client.query(cancel, &[&case.run]).unwrap_err();
        // The function finds the task as it was.
        let code = if case.fault == Fault::Withheld { SqlState::T_R_SERIALIZATION_FAILURE } else { case.fault.code() };
        assert!(error.code().is_some_and(|found| *found == code), "{:?}: {error:?}", case.fault);
        assert_eq!(case.states(), ["queued"; 3], "all or none");
        case.client.query(cancel, &[&case.tasks[2]]).unwrap();
        case.stop_refusing();
    });
}

#[test]
fn refused_transition_refuses_the_statement() {
    with_and_without_preloading("refused-many", |case| {
        case.refuse("$state = 'running'");
        let many = "SELECT outcome FROM workflow.transition_many('task_instance', $1, 'queued', 'running')";
        let moved = case.client.query(many, &[&case.tasks]);
        if case.fault == Fault::Withheld {
            let outcomes: Vec<String> = moved.unwrap().iter().map(|row| row.get(0)).collect();
            assert_eq!(outcomes, ["applied", "stale", "applied"]);
            assert_eq!(case.states(), ["running", "queued", "running"]);
        } else {
            assert_eq!(moved.unwrap_err().code(), Some(&case.fault.code()), "{:?}", case.fault);
            assert_eq!(case.states(), ["queued"; 3], "{:?}", case.fault);
        }
        case.stop_refusing();
    });
}

/// Creates a task that waits for two others: a run with dependencies.
fn create_child(case: &mut Case) -> (Uuid, Uuid) {
    let (_, run) = create_run(&mut case.client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{a,child,other}', queue => 'graph',
        depends_on => '{\"child\": [\"a\"], \"other\": [\"a\"]}') ORDER BY task_id = 'child' DESC";
    (run, case.client.query(sql, &[&run]).unwrap()[0].get(0))
}

#[test]
fn refused_start_of_a_run_keeps_no_task_from_workers() {
    with_and_without_preloading("refused-start", |case| {
        let (run, _) = create_child(case);
        case.fault.begin(&mut case.owner, "dag_runs", &format!("$id = '{run}' AND $state = 'running'"));
        let claimed = case.client.query("SELECT FROM workflow.claim_tasks('w', '{graph}', 10)", &[]);
        if matches!(case.fault, Fault::Deferred) {
            assert_eq!(claimed.unwrap_err().code(), Some(&case.fault.code()));
        } else {
            assert_eq!(claimed.unwrap_or_else(|error| panic!("{:?}: {error:?}", case.fault)).len(), 1);
        }
        case.fault.end(&mut case.owner, "dag_runs");
        case.client.query("SELECT workflow.request_cancel($1)", &[&run]).unwrap();
        let sql = "UPDATE workflow.task_instances SET state = 'failed' WHERE dag_run_id = $1 AND state = 'running'";
        case.client.execute(sql, &[&run]).unwrap();
    });
}

#[test]
fn refused_child_keeps_no_parent_from_its_end() {
    with_and_without_preloading("refused-look", |case| {
        let (run, child) = create_child(case);
        case.fault.begin(&mut case.owner, "task_instances", &format!("$id = '{child}' AND $state = 'failed'"));
        let sql = "SELECT workflow.fail_claim(c.claim, 'x', '-1 s') FROM workflow.claim_tasks('w', '{graph}') AS c";
        case.client.query(sql, &[]).unwrap_or_else(|error| panic!("{:?}: {error:?}", case.fault));
        let sql = "SELECT task_id, state FROM workflow.task_instances WHERE dag_run_id = $1 ORDER BY task_id";
        let states: Vec<String> = case.client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(1)).collect();
        // The owner of the tables moves it, and no policy holds for that role.
        let is_moved = case.fault == Fault::Policy;
        assert_eq!(states, ["failed", if is_moved { "failed" } else { "queued" }, "failed"], "{:?}", case.fault);
        case.fault.end(&mut case.owner, "task_instances");
        wait_until("a look", || {
            case.client.query("SELECT workflow.reap_claims()", &[]).unwrap();
            state_of(&mut case.client, child) == "failed"
        });
    });
}
