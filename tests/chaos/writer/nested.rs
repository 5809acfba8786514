//! Two transitions of an entity by one statement: the second one is inside the first.

use anyhow::Result;
use postgres::Client;

use super::{Entity, Stale, Writer, lasting_state, metadata, next_state};

/// Triggers that move a run again, to the state in a setting: in the statement, and at the commit. Because of them, runs are
/// moved by SQL statements. Tasks have none, and are moved by the direct path, too.
const TRIGGERS: &str = "
    CREATE FUNCTION public.move_again() RETURNS trigger LANGUAGE plpgsql AS $body$
    DECLARE
        next text := current_setting(TG_ARGV[0], true);
    BEGIN
        IF next <> NEW.state THEN
            UPDATE workflow.dag_runs SET state = next WHERE id = NEW.id;
        END IF;
        RETURN NULL;
    END $body$;
    CREATE TRIGGER move_again AFTER UPDATE OF state ON workflow.dag_runs FOR EACH ROW
        WHEN (current_setting('chaos.next', true) <> '') EXECUTE FUNCTION public.move_again('chaos.next');
    CREATE CONSTRAINT TRIGGER move_later AFTER UPDATE OF state ON workflow.dag_runs
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (current_setting('chaos.later', true) <> '') EXECUTE FUNCTION public.move_again('chaos.later');";

pub fn create_triggers(client: &mut Client) -> Result<()> {
    Ok(client.batch_execute(TRIGGERS)?)
}

impl Writer {
    pub(super) fn transition_nested(&mut self) -> Result<u32> {
        let form = self.random.usize(0..5);
        let kind = if form < 2 { "dag_run" } else { "task_instance" };
        let candidates: Vec<usize> = (0..self.own.len()).filter(|index| self.own[*index].kind == kind).collect();
        let Some(&index) = self.random.choice(&candidates) else { return Ok(0) };
        let entity = self.own[index];
        let first = lasting_state(&mut self.random, entity.state);
        let second = next_state(&mut self.random, first);
        let states = [first.as_str(), second.as_str()];
        let client = self.session.client()?;
        let version = match form {
            0 => move_in_trigger(client, entity, states, "chaos.next")?,
            1 => move_in_trigger(client, entity, states, "chaos.later")?,
            form => {
                let outer = "UPDATE workflow.task_instances SET state = $3 WHERE id = $1 AND version = $2";
                let inner = "workflow.transition_task_instance(id, $3, $4, $5)";
                let sql = match form {
                    2 => format!("WITH moved AS ({outer} RETURNING id) SELECT {inner} FROM moved"),
                    3 => format!("{outer} RETURNING {inner}"),
                    _ => format!(
                        "{outer} RETURNING
                         (SELECT version FROM workflow.transition_many('task_instance', ARRAY[id], $3, $4, $5))"
                    ),
                };
                let metadata = metadata(&mut self.random);
                let row = client.query_opt(&sql, &[&entity.id, &entity.version, &states[0], &states[1], &metadata])?;
                row.ok_or(Stale)?.get(0)
            }
        };
        self.written.acknowledged.push((entity.id, entity.version + 1));
        self.acknowledge(index, second, version);
        self.written.counts.nested += 1;
        if version != entity.version + 2 {
            self.complain(&format!(
                "{} was at version {}, and two transitions gave {version}",
                entity.id, entity.version
            ));
        }
        Ok(2)
    }
}

/// Lets a trigger make the second transition. Returns the version after it.
fn move_in_trigger(client: &mut Client, task: Entity, [first, second]: [&str; 2], setting: &str) -> Result<i64> {
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT set_config($1, $2, true)", &[&setting, &second])?;
    let version = super::update(&mut transaction, task, first.parse()?)?;
    transaction.commit()?;
    Ok(version + 1)
}
