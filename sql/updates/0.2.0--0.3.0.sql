-- From 0.2.0 to 0.3.0. No table changes. The position in the feed becomes a type of its own, and the internal functions
-- that took a row of consumers take a position.

-- take type workflow.feed_position
-- take function workflow.is_acknowledged
-- take function workflow.unfinished_transactions
-- take function workflow.late_events
-- take function workflow.events_in_window
-- take function workflow.events_between
-- take function workflow.first_position
-- take function workflow.open_window
-- take function workflow.close_window
-- take function workflow.relocate_position
-- take function workflow.position_of
-- take function workflow.store_position
-- take function workflow.lock_consumer
-- take function workflow.check_reading
-- take function workflow.create_consumer
-- take function workflow.read_events
-- take function workflow.ack_events
-- take function workflow.format_snapshot
-- take function workflow.parse_snapshot
-- take function workflow.format_position
-- take function workflow.parse_position
-- take function workflow.position_after
-- take function workflow.current_position
-- take function workflow.follow_events
-- take function workflow.lease_consumer
-- take function workflow.save_checkpoint
-- take function workflow.rewind_consumer
-- take view workflow.consumer_lag
-- take view workflow.state_counts
-- take function workflow.needs_history
-- take function workflow.who_needs_history
-- take function workflow.create_partition
-- take function workflow.switch_to_partition

-- Trigger functions check which trigger calls them.
-- take function workflow.note_deletion
-- take function workflow.forget_counts
REVOKE EXECUTE ON FUNCTION
    workflow.guard(),
    workflow.record(),
    workflow.refuse_insert(),
    workflow.prepare_load(),
    workflow.note_deletion(),
    workflow.forget_counts(),
    workflow.refuse_drop()
FROM PUBLIC;

-- Reworded only.
-- take function workflow.append_task_log
-- take function workflow.history
-- take function workflow.state_at
-- take function workflow.event_id_at
-- take function workflow.last_event_id
-- take function workflow.others_snapshot
-- take function workflow.current_place
-- take function workflow.forget_state_counts
-- take function workflow.count_states
-- take function workflow.fold_state_counts
-- take function workflow.open_partitions
-- take function workflow.drop_partition
-- take function workflow.purge_runs
-- take function workflow.purge_history
-- take function workflow.purge
-- take function workflow.verify
-- take function workflow.stuck
-- take function workflow.show_settings
-- take function workflow.enable_row_security

DROP FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint);
DROP FUNCTION workflow.open_window(workflow.consumers);
DROP FUNCTION workflow.close_window(workflow.consumers);
DROP FUNCTION workflow.found_by_ids(workflow.consumers);
DROP FUNCTION workflow.locked_consumer(text, bigint);
DROP FUNCTION workflow.spelled_snapshot(pg_snapshot);
DROP FUNCTION workflow.parsed_snapshot(text);
DROP FUNCTION workflow.spelled_position(workflow.consumers);
DROP FUNCTION workflow.parsed_position(text);
DROP FUNCTION workflow.position_after(workflow.consumers, bigint, boolean);
DROP FUNCTION workflow.needs_history(workflow.consumers, bigint);
DROP FUNCTION workflow.make_partition(text, bigint);
DROP FUNCTION workflow.go_on_to_partition(text, bigint);

-- take comments
