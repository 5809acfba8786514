//! Rows of a heap table, found by primary key, updated and inserted with their index entries, and nothing else: no plan, no
//! executor, no triggers, no constraints, no check of rights. `definition.rs` tells for which tables that is enough.
//!
//! Each function guards its calls of PostgreSQL once; see `raw.rs`. All of them can raise errors: out of memory, a lock
//! that is not granted, a unique key that exists, a corrupt page, a cancellation.

use super::indexes::{Changes, Indexes, NewEntries, key};
use super::raw;
use super::rows::Rows;
use super::trigger::Row;
use super::uuid::Uuid;
use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid, Relation, TM_FailureData, TM_Result, TupleTableSlot};
use std::ffi::CString;
use std::ptr::null_mut;

/// A table, locked until the transaction ends.
pub struct Heap(Relation);

/// A row that was found. Its values live until it is released.
pub struct Found(*mut TupleTableSlot);

/// The lock to take on a table.
#[derive(Clone, Copy)]
pub enum Lock {
    /// As SELECT FOR KEY SHARE does.
    Rows,
    /// As INSERT and UPDATE do.
    Write,
}

/// Whether to wait for a transaction that changes the same row.
#[derive(Clone, Copy, PartialEq)]
pub enum Wait {
    Always,
    Never,
}

/// How to lock a row that is not to be waited for.
#[derive(Clone, Copy)]
pub enum Strength {
    /// So that no other transaction changes it.
    Share,
    /// As an UPDATE does.
    Update,
    /// As a DELETE does: no other transaction refers to the row.
    Key,
}

/// The result of an attempt to lock a row.
#[derive(Clone, Copy, PartialEq)]
pub enum Attempted {
    Locked,
    /// Another transaction has locked it, or changes it.
    Busy,
    /// It has changed since the snapshot.
    Changed,
}

/// The result of an update.
#[derive(Clone, Copy, PartialEq)]
pub enum Updated {
    Made,
    /// Nothing was changed: another transaction has locked the row, or changes it.
    Locked,
    /// Nothing was changed: an SQL statement must do it, or find that it cannot.
    Refused,
}

impl Heap {
    /// Opens a table; `None` if it has been dropped, or has no rows of its own.
    pub fn open(table: Oid, lock: Lock) -> Option<Heap> {
        let lock = match lock {
            Lock::Rows => pg_sys::RowShareLock,
            Lock::Write => pg_sys::RowExclusiveLock,
        };
        // SAFETY: null if there is no such table. An error unwinds, and the end of the (sub)transaction closes it.
        let table = unsafe { pg_sys::try_table_open(table, lock as i32) };
        if table.is_null() {
            return None;
        }
        let table = Heap(table);
        // SAFETY: the description of an open table.
        if unsafe { (*table.relation().rd_rel).relkind } as u8 == pg_sys::RELKIND_RELATION {
            return Some(table);
        }
        table.close();
        None
    }

    /// Returns PostgreSQL's knowledge of the table.
    pub fn relation(&self) -> &pg_sys::RelationData {
        // SAFETY: the table is open as long as `self` lives.
        unsafe { &*self.0 }
    }

    /// Returns the schema of the table.
    pub fn schema(&self) -> Oid {
        // SAFETY: the description of an open table.
        unsafe { (*self.relation().rd_rel).relnamespace }
    }

    /// Returns the owner of the table.
    pub fn owner(&self) -> Oid {
        // SAFETY: the description of an open table.
        unsafe { (*self.relation().rd_rel).relowner }
    }

    /// Returns the number of columns, dropped ones included.
    pub fn width(&self) -> usize {
        // SAFETY: an open table has a descriptor.
        unsafe { (*self.relation().rd_att).natts as usize }
    }

    /// Returns the number of a column, from 1.
    pub fn column(&self, name: &str) -> usize {
        self.find_column(name).unwrap_or_else(|| panic!("the table has no column {name}"))
    }

    /// Returns the number of a column, from 1; `None` if there is none of this name.
    pub fn find_column(&self, name: &str) -> Option<usize> {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the table is open, and so its descriptor lives.
        let number = unsafe { pg_sys::SPI_fnumber(self.relation().rd_att, c_name.as_ptr()) };
        usize::try_from(number).ok().filter(|number| *number > 0)
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        // SAFETY: the table is open.
        unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) };
    }

    /// Raises an error if a publication has updates of the table, and cannot tell which row they are of.
    pub fn check_publications(&self) {
        // SAFETY: the table is open.
        unsafe { pg_sys::CheckCmdReplicaIdentity(self.0, pg_sys::CmdType::CMD_UPDATE) };
    }

    /// Whether the primary key is this column.
    pub fn has_primary_key(&self, column: usize) -> bool {
        // SAFETY: the table is open. The closure holds no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let index = open_primary_key(self.0, column);
                if !index.is_null() {
                    raw::index_close(index, pg_sys::NoLock as i32);
                }
                !index.is_null()
            })
        }
    }

    /// Finds a row by its primary key, which must be this column, a uuid. It sees what the current statement sees, and
    /// what the transaction has written since.
    pub fn find(&self, column: usize, id: Uuid) -> Option<Found> {
        // SAFETY: a snapshot is active: a statement calls us. The closure holds no destructor.
        let slot = unsafe { pg_guard_ffi_boundary(|| find(self.0, column, id)) };
        (!slot.is_null()).then_some(Found(slot))
    }

    /// Locks the key of a row, or of its newest version, as a foreign key does. Returns false if it has been deleted.
    pub fn lock_key(&self, found: &Found) -> bool {
        // SAFETY: the row is of this table, which is a heap. The closure holds no destructor.
        unsafe { pg_guard_ffi_boundary(|| lock_key(self.0, found.0)) }
    }

    /// Whether a transaction has locked or changed a row since it was written, other than for the check of a foreign key. It
    /// can have ended: its mark stays until the next one.
    pub fn was_locked(&self, found: &Found) -> bool {
        // SAFETY: the row is of this table, which is a heap.
        unsafe { was_locked(found.0) }
    }

    /// Locks a row until the transaction ends, if no other transaction has locked it otherwise.
    pub fn try_lock(&self, found: &Found, strength: Strength) -> Attempted {
        let mode = match strength {
            Strength::Share => pg_sys::LockTupleMode::LockTupleShare,
            Strength::Update => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
            Strength::Key => pg_sys::LockTupleMode::LockTupleExclusive,
        };
        let policy = pg_sys::LockWaitPolicy::LockWaitSkip;
        // SAFETY: the row is of this table, which is a heap. The closure holds no destructor.
        match unsafe { pg_guard_ffi_boundary(|| lock(self.0, found.0, mode, policy, 0)) } {
            TM_Result::TM_Ok => Attempted::Locked,
            TM_Result::TM_WouldBlock => Attempted::Busy,
            _ => Attempted::Changed,
        }
    }

    /// Writes a new version of a row. Returns false, and changes nothing, if the row is not the newest version, if a
    /// transaction changes it that is not to be waited for, if this transaction has written it, or if an index needs more
    /// than an entry.
    ///
    /// An UPDATE of a row of its own transaction checks the row's foreign keys again: the check of the INSERT, at the end
    /// of a statement or of the transaction, looks at the newest version only.
    pub fn update(&self, found: &Found, changes: &Changes, wait: Wait) -> Updated {
        // SAFETY: the row is of this table, which is a heap; the values have their columns' types. The closure holds no
        // destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let indexes = Indexes::open(self.0);
                let is_simple = indexes.are_plain && !indexes.unique_key_has(changes);
                let updated =
                    if is_simple { update(self.0, &indexes, found.0, changes, wait) } else { Updated::Refused };
                indexes.close();
                updated
            })
        }
    }

    /// Deletes a row. Returns false, and deletes nothing, if another transaction has changed it, or changes it now.
    pub fn delete(&self, place: ItemPointerData) -> bool {
        // SAFETY: the place is one of this table, which is a heap. The closure holds no destructor.
        unsafe { pg_guard_ffi_boundary(|| delete(self.0, place)) }
    }

    /// Inserts rows. Returns false, and inserts nothing, if an index needs more than an entry.
    pub fn insert(&self, rows: &mut Rows) -> bool {
        // SAFETY: the rows are of this table, which is a heap. The closure holds no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let indexes = Indexes::open(self.0);
                if indexes.are_plain {
                    insert(self.0, rows);
                    indexes.insert(self.0, rows);
                }
                indexes.close();
                indexes.are_plain
            })
        }
    }
}

impl Found {
    /// Returns the row.
    pub fn row(&self) -> Row {
        Row::of(self.0)
    }

    /// Releases the row. After an error the end of the (sub)transaction does.
    pub fn release(self) {
        // SAFETY: the slot is ours.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) };
    }
}

/// # Safety
/// As of [`Heap::find`]. Called within a boundary.
unsafe fn find(table: Relation, column: usize, id: Uuid) -> *mut TupleTableSlot {
    // SAFETY: the caller's promise.
    unsafe {
        let index = open_primary_key(table, column);
        if index.is_null() {
            return null_mut();
        }
        let slot = scan(table, index, id);
        raw::index_close(index, pg_sys::NoLock as i32);
        slot
    }
}

/// Opens the index of the primary key; null if there is none on this column alone.
///
/// # Safety
/// The table must be open. Called within a boundary.
unsafe fn open_primary_key(table: Relation, column: usize) -> Relation {
    // SAFETY: the caller's promise; an index that is listed can be opened.
    unsafe {
        if !(*table).rd_indexvalid {
            raw::list_free(raw::RelationGetIndexList(table));
        }
        if (*table).rd_pkindex == Oid::INVALID {
            return null_mut();
        }
        let index = raw::index_open((*table).rd_pkindex, pg_sys::AccessShareLock as i32);
        let of = &*(*index).rd_index;
        if of.indisvalid && of.indnkeyatts == 1 && key(of, 0) == column {
            return index;
        }
        raw::index_close(index, pg_sys::NoLock as i32);
        null_mut()
    }
}

/// Finds the row with an ID; null if there is none.
///
/// # Safety
/// The index must be the table's primary key, a uuid. Called within a boundary.
unsafe fn scan(table: Relation, index: Relation, id: Uuid) -> *mut TupleTableSlot {
    // SAFETY: the caller's promise; the snapshot is active until the scan has ended. The row stays pinned by its slot.
    unsafe {
        let is_older = (*raw::GetActiveSnapshot()).curcid != raw::GetCurrentCommandId(false);
        if is_older {
            raw::PushCopiedSnapshot(raw::GetActiveSnapshot());
            raw::UpdateActiveSnapshotCommandId();
        }
        let slot = raw::table_slot_create(table, null_mut());
        let mut key = pg_sys::ScanKeyData::default();
        let (equal, function) = (pg_sys::BTEqualStrategyNumber as u16, Oid::from(pg_sys::F_UUID_EQ));
        raw::ScanKeyInit(&raw mut key, 1, equal, function, id.as_datum());
        let scan = raw::begin_scan(table, index, raw::GetActiveSnapshot(), 1);
        raw::index_rescan(scan, &raw mut key, 1, null_mut(), 0);
        let is_found = raw::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
        raw::index_endscan(scan);
        if is_older {
            raw::PopActiveSnapshot();
        }
        if is_found {
            raw::slot_getsomeattrs_int(slot, (*(*table).rd_att).natts);
            return slot;
        }
        raw::ExecDropSingleTupleTableSlot(slot);
        null_mut()
    }
}

/// # Safety
/// As of [`Heap::lock_key`]. Called within a boundary.
unsafe fn lock_key(table: Relation, row: *mut TupleTableSlot) -> bool {
    /// Also the version that a transaction in progress is writing; and the newest one.
    const FLAGS: u32 = pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS | pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
    let (mode, policy) = (pg_sys::LockTupleMode::LockTupleKeyShare, pg_sys::LockWaitPolicy::LockWaitBlock);
    // SAFETY: the caller's promise.
    unsafe { lock(table, row, mode, policy, FLAGS) == TM_Result::TM_Ok }
}

/// # Safety
/// The row must be of the table, a heap. Called within a boundary.
unsafe fn lock(
    table: Relation,
    row: *mut TupleTableSlot,
    mode: pg_sys::LockTupleMode::Type,
    policy: pg_sys::LockWaitPolicy::Type,
    flags: u32,
) -> TM_Result::Type {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(lock) = (*(*table).rd_tableam).tuple_lock else { return TM_Result::TM_Invisible };
        let mut place = (*row).tts_tid;
        let mut failure = TM_FailureData::default();
        lock(
            table,
            &raw mut place,
            raw::GetActiveSnapshot(),
            row,
            raw::GetCurrentCommandId(true),
            mode,
            policy,
            flags as u8,
            &raw mut failure,
        )
    }
}

/// # Safety
/// As of [`Heap::update`]. Called within a boundary.
unsafe fn update(
    table: Relation,
    indexes: &Indexes,
    old: *mut TupleTableSlot,
    changes: &Changes,
    wait: Wait,
) -> Updated {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(update) = (*(*table).rd_tableam).tuple_update else { return Updated::Refused };
        if is_own(old) {
            return Updated::Refused;
        }
        let new = version_with(table, old, changes);
        let mut failure = TM_FailureData::default();
        let mut lock_mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
        let mut new_entries = NewEntries::default();
        let result = update(
            table,
            &raw mut (*old).tts_tid,
            new,
            raw::GetCurrentCommandId(true),
            raw::GetActiveSnapshot(),
            null_mut(),
            wait == Wait::Always,
            &raw mut failure,
            &raw mut lock_mode,
            &raw mut new_entries,
        );
        let updated = match result {
            TM_Result::TM_Ok => Updated::Made,
            TM_Result::TM_BeingModified if !has_shared_locks(old) => Updated::Locked,
            _ => Updated::Refused,
        };
        if updated == Updated::Made {
            indexes.insert_version(table, new, changes, new_entries);
        }
        raw::ExecDropSingleTupleTableSlot(new);
        updated
    }
}

/// Whether transactions may have locked a row only so that an UPDATE need not wait for them: for the check of a foreign key.
///
/// # Safety
/// The row must be a stored one, of a heap. Called within a boundary.
unsafe fn has_shared_locks(row: *mut TupleTableSlot) -> bool {
    let [several, modes] = [pg_sys::HEAP_XMAX_IS_MULTI, pg_sys::HEAP_LOCK_MASK];
    // SAFETY: the caller's promise. The row is in a buffer that is pinned.
    let mask = unsafe {
        if !std::ptr::eq((*row).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            return true;
        }
        u32::from((*(*(*row.cast::<pg_sys::HeapTupleTableSlot>()).tuple).t_data).t_infomask)
    };
    mask & several != 0 || mask & modes == pg_sys::HEAP_XMAX_KEYSHR_LOCK
}

/// # Safety
/// The row must be a stored one, of a heap.
unsafe fn was_locked(row: *mut TupleTableSlot) -> bool {
    // SAFETY: the caller's promise. The row is in a buffer that is pinned.
    unsafe {
        if !std::ptr::eq((*row).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            return false;
        }
        let header = &*(*(*row.cast::<pg_sys::HeapTupleTableSlot>()).tuple).t_data;
        let mask = u32::from(header.t_infomask);
        let is_of_key =
            mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0 && mask & pg_sys::HEAP_LOCK_MASK == pg_sys::HEAP_XMAX_KEYSHR_LOCK;
        header.t_choice.t_heap.t_xmax != pg_sys::InvalidTransactionId && !is_of_key
    }
}

/// # Safety
/// As of [`Heap::delete`]. Called within a boundary.
unsafe fn delete(table: Relation, mut place: ItemPointerData) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(delete) = (*(*table).rd_tableam).tuple_delete else { return false };
        let mut failure = TM_FailureData::default();
        let command = raw::GetCurrentCommandId(true);
        let snapshot = raw::GetActiveSnapshot();
        delete(table, &raw mut place, command, snapshot, null_mut(), false, &raw mut failure, false) == TM_Result::TM_Ok
    }
}

/// Whether the current transaction has written a row.
///
/// # Safety
/// The row must be a stored one. Called within a boundary.
unsafe fn is_own(row: *mut TupleTableSlot) -> bool {
    // SAFETY: the caller's promise. Without the function it is taken for an own one.
    unsafe {
        let Some(system_column) = (*(*row).tts_ops).getsysattr else { return true };
        let mut is_null = false;
        let xmin = system_column(row, pg_sys::MinTransactionIdAttributeNumber, &raw mut is_null);
        raw::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from(xmin.value() as u32))
    }
}

/// Returns a row with changes.
///
/// # Safety
/// The row must be of the table, and all its values read; the changes have their columns' types. Called within a boundary.
unsafe fn version_with(table: Relation, old: *mut TupleTableSlot, changes: &Changes) -> *mut TupleTableSlot {
    // SAFETY: the caller's promise. A virtual slot has room for each column's value; the old values are pinned.
    unsafe {
        let width = (*(*table).rd_att).natts as usize;
        let new = raw::MakeSingleTupleTableSlot((*table).rd_att, &raw const pg_sys::TTSOpsVirtual);
        std::ptr::copy_nonoverlapping((*old).tts_values, (*new).tts_values, width);
        std::ptr::copy_nonoverlapping((*old).tts_isnull, (*new).tts_isnull, width);
        for (column, value) in changes {
            *(*new).tts_isnull.add(column - 1) = value.is_none();
            *(*new).tts_values.add(column - 1) = value.unwrap_or(Datum::null());
        }
        raw::ExecStoreVirtualTuple(new);
        new
    }
}

/// # Safety
/// As of [`Heap::insert`]. Called within a boundary.
unsafe fn insert(table: Relation, rows: &mut Rows) {
    /// Rows whose slots exist at a time.
    const MOST: usize = 1000;
    // SAFETY: the caller's promise. The slots share a copy of the descriptor: PostgreSQL searches the references to the
    // table's own one linearly.
    unsafe {
        let descriptor = raw::CreateTupleDescCopy((*table).rd_att);
        let most = rows.len().min(MOST);
        let slots = raw::palloc0(most.max(1) * size_of::<*mut TupleTableSlot>()).cast::<*mut TupleTableSlot>();
        for n in 0..most {
            *slots.add(n) = raw::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
        }
        // A multi-insert leaves its tuples behind.
        let (outer, tuples) = (pg_sys::CurrentMemoryContext, raw::create_context());
        let mut first = 0;
        while first < rows.len() {
            let count = (rows.len() - first).min(MOST);
            pg_sys::CurrentMemoryContext = tuples;
            insert_some(table, rows, first, slots, count);
            pg_sys::CurrentMemoryContext = outer;
            raw::MemoryContextReset(tuples);
            first += count;
        }
        raw::MemoryContextDelete(tuples);
        for n in 0..most {
            raw::ExecDropSingleTupleTableSlot(*slots.add(n));
        }
        raw::pfree(slots.cast());
        raw::FreeTupleDesc(descriptor);
    }
}

/// # Safety
/// There must be as many rows from `first` on, and slots. Called within a boundary.
unsafe fn insert_some(table: Relation, rows: &mut Rows, first: usize, slots: *mut *mut TupleTableSlot, count: usize) {
    // SAFETY: the caller's promise; a heap has both functions.
    unsafe {
        let access = &*(*table).rd_tableam;
        let command = raw::GetCurrentCommandId(true);
        for n in 0..count {
            rows.fill(first + n, *slots.add(n));
            raw::ExecStoreVirtualTuple(*slots.add(n));
        }
        match (access.tuple_insert, access.multi_insert) {
            (Some(insert), _) if count == 1 => insert(table, *slots, command, 0, null_mut()),
            (_, Some(insert)) => insert(table, slots, count as i32, command, 0, null_mut()),
            _ => {}
        }
        for n in 0..count {
            rows.set_place(first + n, (**slots.add(n)).tts_tid);
            if let Some(clear) = (*(**slots.add(n)).tts_ops).clear {
                clear(*slots.add(n));
            }
        }
    }
}
