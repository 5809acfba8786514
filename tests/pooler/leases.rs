//! Leases on consumers, whose holders share sessions with others.

use super::*;

/// The session that acquired the lease is another client's when the lease is taken over.
#[test]
fn takeover_of_a_lease_ends_no_transaction_of_others() {
    let Some(pooled) = Pooled::start("transaction", 1, false) else { return };
    let (holder, other) = (&mut pooled.connect_pooled(), &mut pooled.connect_pooled());
    holder.batch_execute("SELECT workflow.create_consumer('c'), workflow.lease_consumer('c', 'me', '1 ms')").unwrap();
    other.batch_execute("BEGIN; SELECT workflow.create_dag('innocent')").unwrap();
    let leased = pooled.connect().query_one("SELECT workflow.lease_consumer('c', 'you')", &[]).unwrap();
    assert_eq!(leased.get::<_, Option<i64>>(0), Some(2));
    other.batch_execute("COMMIT").expect("the session continues");
    // The number in the lease rejects the previous holder.
    assert_eq!(failure(holder.batch_execute("SELECT workflow.read_events('c', lease => 1)")).sqlstate, "55006");
}

/// A reader that hangs holds the consumer in whatever session the pooler gave to it.
#[test]
fn takeover_of_a_lease_ends_the_session_that_reads() {
    let Some(pooled) = Pooled::start("transaction", 2, false) else { return };
    let clients = &mut [pooled.connect_pooled(), pooled.connect_pooled()];
    let [holder, other] = clients;
    holder.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    holder.batch_execute("SELECT workflow.lease_consumer('c', 'me', '1 ms')").unwrap();
    // The session with the lease is now another client's, so that the holder reads in the second one.
    other.batch_execute("BEGIN; SELECT workflow.create_dag('innocent')").unwrap();
    holder.batch_execute("BEGIN; SELECT workflow.read_events('c', lease => 1)").unwrap();
    let leased = pooled.connect().query_one("SELECT workflow.lease_consumer('c', 'you')", &[]).unwrap();
    assert_eq!(leased.get::<_, Option<i64>>(0), Some(2));
    assert!(holder.batch_execute("COMMIT").is_err(), "its session was ended");
    other.batch_execute("COMMIT").expect("the session continues");
}
