//! Functions of PostgreSQL as C declares them. pgrx guards each call of its own: an ERROR becomes a panic that unwinds.
//! Code with many calls for each row guards all of them once (`heap.rs`). There, an ERROR jumps over the Rust frames:
//! they must hold nothing that needs a destructor, and must not panic.

use pgrx::pg_sys::{
    self, AttrNumber, CommandId, Datum, HeapTuple, IndexInfo, IndexScanDesc, IndexUniqueCheck, ItemPointer, List,
    MemoryContext, Oid, RegProcedure, Relation, ScanDirection, ScanKey, Size, Snapshot, StrategyNumber, TransactionId,
    TupleDesc, TupleTableSlot, TupleTableSlotOps,
};
use std::ffi::{c_char, c_int, c_void};

unsafe extern "C-unwind" {
    pub fn RelationGetIndexList(relation: Relation) -> *mut List;
    pub fn list_free(list: *mut List);
    pub fn index_open(index: Oid, lock: c_int) -> Relation;
    pub fn index_close(index: Relation, lock: c_int);
    pub fn index_rescan(scan: IndexScanDesc, keys: ScanKey, nkeys: c_int, orderbys: ScanKey, norderbys: c_int);
    pub fn index_getnext_slot(scan: IndexScanDesc, direction: ScanDirection::Type, slot: *mut TupleTableSlot) -> bool;
    pub fn index_endscan(scan: IndexScanDesc);
    pub fn index_insert(
        index: Relation,
        values: *mut Datum,
        nulls: *mut bool,
        tid: ItemPointer,
        table: Relation,
        check: IndexUniqueCheck::Type,
        is_unchanged: bool,
        info: *mut IndexInfo,
    ) -> bool;
    pub fn ScanKeyInit(
        key: ScanKey,
        column: AttrNumber,
        strategy: StrategyNumber,
        function: RegProcedure,
        argument: Datum,
    );
    pub fn heap_attisnull(tuple: HeapTuple, column: c_int, descriptor: TupleDesc) -> bool;
    pub fn table_slot_create(table: Relation, list: *mut *mut List) -> *mut TupleTableSlot;
    pub fn MakeSingleTupleTableSlot(descriptor: TupleDesc, operations: *const TupleTableSlotOps)
    -> *mut TupleTableSlot;
    pub fn ExecDropSingleTupleTableSlot(slot: *mut TupleTableSlot);
    pub fn ExecStoreVirtualTuple(slot: *mut TupleTableSlot) -> *mut TupleTableSlot;
    pub fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, column: c_int);
    pub fn CreateTupleDescCopy(descriptor: TupleDesc) -> TupleDesc;
    pub fn GetCurrentCommandId(used: bool) -> CommandId;
    pub fn PushCopiedSnapshot(snapshot: Snapshot);
    pub fn UpdateActiveSnapshotCommandId();
    pub fn GetActiveSnapshot() -> Snapshot;
    pub fn PopActiveSnapshot();
    pub fn TransactionIdIsCurrentTransactionId(id: TransactionId) -> bool;
    pub fn TransactionIdIsInProgress(id: TransactionId) -> bool;
    pub fn ProcessInterrupts();
    pub fn MemoryContextReset(context: MemoryContext);
    pub fn MemoryContextDelete(context: MemoryContext);
    fn AllocSetContextCreateInternal(
        parent: MemoryContext,
        name: *const c_char,
        least: Size,
        first: Size,
        most: Size,
    ) -> MemoryContext;
    pub fn FreeTupleDesc(descriptor: TupleDesc);
    pub fn pfree(pointer: *mut c_void);
    pub fn palloc0(size: Size) -> *mut c_void;
}

/// Creates a memory context in the current one.
///
/// # Safety
/// Called within a boundary.
pub unsafe fn create_context() -> MemoryContext {
    let [least, first, most] =
        [pg_sys::ALLOCSET_DEFAULT_MINSIZE, pg_sys::ALLOCSET_DEFAULT_INITSIZE, pg_sys::ALLOCSET_DEFAULT_MAXSIZE]
            .map(|size| size as Size);
    // SAFETY: the name is a constant, as PostgreSQL requires.
    unsafe {
        AllocSetContextCreateInternal(pg_sys::CurrentMemoryContext, c"pg_workflow rows".as_ptr(), least, first, most)
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" {
    fn index_beginscan(
        table: Relation,
        index: Relation,
        snapshot: Snapshot,
        nkeys: c_int,
        norderbys: c_int,
    ) -> IndexScanDesc;
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" {
    fn index_beginscan(
        table: Relation,
        index: Relation,
        snapshot: Snapshot,
        instrument: *mut pgrx::pg_sys::IndexScanInstrumentation,
        nkeys: c_int,
        norderbys: c_int,
    ) -> IndexScanDesc;
}

/// Begins a scan with so many keys.
///
/// # Safety
/// As of index_beginscan().
pub unsafe fn begin_scan(table: Relation, index: Relation, snapshot: Snapshot, keys: c_int) -> IndexScanDesc {
    // SAFETY: the caller's promise.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        index_beginscan(table, index, snapshot, keys, 0)
    }
    // SAFETY: the caller's promise; without instrumentation.
    #[cfg(feature = "pg18")]
    unsafe {
        index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
unsafe extern "C-unwind" {
    fn index_insert_cleanup(index: Relation, info: *mut IndexInfo);
}

/// Ends the inserts into an index. From PostgreSQL 17 on, BRIN keeps pages pinned until then.
///
/// # Safety
/// The index must be open; its inserts got `info`.
pub unsafe fn end_inserts(_index: Relation, _info: *mut IndexInfo) {
    // SAFETY: the caller's promise.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    unsafe {
        index_insert_cleanup(_index, _info);
    }
}
