//! A publication for all tables changes nothing for those who write.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;

#[test]
fn every_table_has_a_replica_identity() {
    let db = Db::new();
    // Also the partitions that are created later; the partitioned tables have no rows of their own.
    next_partition(&mut db.connect());
    let sql = "SELECT c.relname::text FROM pg_class AS c
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind = 'r'
                 AND c.relreplident <> 'f'
                 AND NOT EXISTS (SELECT FROM pg_constraint AS x WHERE x.conrelid = c.oid AND x.contype = 'p')";
    let without: Vec<String> = db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(without, [""; 0]);
}

#[test]
fn publication_for_all_tables_rejects_no_statement() {
    for root in [false, true] {
        let (_cluster, db) = own_cluster("publication", &[("wal_level", "logical")]);
        let client = &mut db.connect();
        let sql = format!("CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root = {root})");
        client.batch_execute(&sql).unwrap();
        let task = create_in_state(client, "task_instance", State::Running);
        client.execute("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
        client
            .batch_execute(
                "SELECT workflow.create_task_instances(id, '{a,b}', queue => 'default') FROM workflow.dag_runs;
                 SELECT workflow.release_claims(array_agg(claim)) FROM workflow.claim_tasks('w', max => 2);
                 SELECT workflow.claim_tasks('w', max => 2)",
            )
            .unwrap();
        client
            .batch_execute(
                "SELECT workflow.fold_state_counts();
                 SELECT workflow.create_consumer('relay', true), workflow.lease_consumer('relay', 'me');
                 SELECT workflow.ack_events('relay', max(e.id), 1) FROM workflow.read_events('relay', lease => 1) AS e;
                 SELECT workflow.save_checkpoint('relay', '{1}', 1), workflow.save_checkpoint('relay', '{2}', 1, '0');
                 SELECT workflow.rewind_consumer('relay', '{2}', 1), workflow.release_consumer('relay', 1);
                 UPDATE workflow.dags SET is_paused = true;
                 UPDATE workflow.task_instances SET state = 'success';
                 UPDATE workflow.dag_runs SET state = 'skipped'",
            )
            .unwrap();
        age(client);
        next_partition(client);
        let purged = "SELECT rows FROM workflow.purge(now()) WHERE object = 'dag_runs'";
        while client.query_one(purged, &[]).unwrap().get::<_, i64>(0) > 0 {}
        client
            .batch_execute(
                "DELETE FROM workflow.dags;
                 SELECT workflow.fold_state_counts(), workflow.forget_state_counts();
                 SELECT workflow.drop_consumer('relay')",
            )
            .unwrap();
        let counted: i64 =
            client.query_one("SELECT sum(count)::bigint FROM workflow.state_counts", &[]).unwrap().get(0);
        assert_eq!(counted, 0, "all deletions are counted");
    }
}
