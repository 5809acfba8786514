-- No role of these can log in: superusers take them.
CREATE ROLE fuzz_writer;
CREATE ROLE fuzz_reader;
-- UPDATE of the whole table, of the state, and without SELECT of all columns.
CREATE ROLE fuzz_updater;
CREATE ROLE fuzz_mover;
CREATE ROLE fuzz_narrow;
CREATE ROLE fuzz_blind;
