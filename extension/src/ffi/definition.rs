//! How a table is defined: whether rows can be written without the executor.

use super::heap::Heap;
use super::values;
use pgrx::pg_sys::{self, Datum, ForeignKeyCacheInfo, NodeTag, Oid};
use pgrx::{FromDatum, IntoDatum, PgTupleDesc};
use std::ffi::{CStr, c_char};

/// A statement that writes rows.
#[derive(Clone, Copy)]
pub enum Event {
    Insert,
    Update,
}

/// A CHECK constraint.
#[derive(PartialEq)]
pub enum Check {
    /// A call of a function with columns.
    Call(Oid, Vec<usize>),
    /// Any other expression.
    Text(String),
}

/// The value of a column that an INSERT does not name.
#[derive(PartialEq)]
pub enum Default {
    Null,
    Text(String),
    Integer(i64),
    /// The result of a function without arguments.
    Function(Oid),
    Other,
}

impl Heap {
    /// Whether it is a heap without children, rules, and columns that are generated or have been dropped.
    pub fn is_ordinary(&self) -> bool {
        let relation = self.relation();
        // SAFETY: an open table has a row in pg_class and a descriptor.
        unsafe {
            let class = &*relation.rd_rel;
            let columns = PgTupleDesc::from_pg_unchecked(relation.rd_att);
            class.relkind as u8 == pg_sys::RELKIND_RELATION
                && class.relam == pg_sys::HEAP_TABLE_AM_OID
                && !class.relhassubclass
                && !class.relhasrules
                && columns.iter().all(|column| !column.attisdropped && column.attgenerated == 0)
        }
    }

    pub fn is_partition(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.relation().rd_rel).relispartition }
    }

    /// Whether the triggers that fire at an event are these functions', each one, always. Triggers of foreign keys are not
    /// counted.
    pub fn fires_only(&self, event: Event, functions: &[Oid]) -> bool {
        let event = match event {
            Event::Insert => pg_sys::TRIGGER_TYPE_INSERT,
            Event::Update => pg_sys::TRIGGER_TYPE_UPDATE,
        };
        let fires = |trigger: &&pg_sys::Trigger| {
            let is_on = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
            trigger.tgtype as u32 & event != 0 && is_on.contains(&(trigger.tgenabled as u8)) && !is_foreign_key(trigger)
        };
        let is_unconditional = |trigger: &pg_sys::Trigger| trigger.tgqual.is_null() && trigger.tgnattr == 0;
        let mut found: Vec<Oid> = Vec::new();
        for trigger in self.triggers().iter().filter(fires) {
            if !is_unconditional(trigger) || !functions.contains(&trigger.tgfoid) || found.contains(&trigger.tgfoid) {
                return false;
            }
            found.push(trigger.tgfoid);
        }
        found.len() == functions.len()
    }

    /// Whether a trigger fires for each inserted row, the check of a foreign key included.
    pub fn fires_for_inserted_rows(&self) -> bool {
        // SAFETY: null, or the description of the triggers.
        let triggers = unsafe { self.relation().trigdesc.as_ref() };
        triggers.is_some_and(|all| all.trig_insert_before_row || all.trig_insert_after_row)
    }

    fn triggers(&self) -> &[pg_sys::Trigger] {
        // SAFETY: null, or as many triggers as it says, which live while the table is open.
        unsafe {
            let all = self.relation().trigdesc.as_ref().filter(|all| all.numtriggers > 0);
            all.map_or(&[], |all| std::slice::from_raw_parts(all.triggers, all.numtriggers as usize))
        }
    }

    /// Returns the columns of each foreign key, by the table that it refers to.
    pub fn foreign_keys(&self) -> Vec<(Oid, Vec<usize>)> {
        // SAFETY: the table is open; the list has ForeignKeyCacheInfo. It lives until the next look at the catalog.
        unsafe {
            let list = pg_sys::RelationGetFKeyList(std::ptr::from_ref(self.relation()).cast_mut());
            let count = if list.is_null() { 0 } else { (*list).length as usize };
            let key = |n: usize| {
                let key = &*(*(*list).elements.add(n)).ptr_value.cast::<ForeignKeyCacheInfo>();
                let columns = &key.conkey[..key.nkeys as usize];
                (key.confrelid, columns.iter().map(|column| *column as usize).collect())
            };
            (0..count).map(key).collect()
        }
    }

    /// Whether its only row security policy is one for all roles and statements that begins with `function() OR`.
    pub fn has_only_policy(&self, function: Oid) -> bool {
        // SAFETY: null, or a list of policies, which live while the table is open. A node has its tag's type.
        unsafe {
            let Some(policies) = self.relation().rd_rsdesc.as_ref().and_then(|security| security.policies.as_ref())
            else {
                return false;
            };
            let policy = &*(*policies.elements).ptr_value.cast::<pg_sys::RowSecurityPolicy>();
            // An invalid OID stands for PUBLIC.
            let is_for_all_roles = Vec::<Oid>::from_datum(Datum::from(policy.roles), false) == Some(vec![Oid::INVALID]);
            policies.length == 1
                && policy.permissive
                && policy.polcmd as u8 == b'*'
                && is_for_all_roles
                && begins_with(policy.qual.cast(), function)
                && policy.with_check_qual.is_null()
        }
    }

    /// Returns the CHECK constraints, those with texts in alphabetical order.
    pub fn checks(&self) -> Vec<Check> {
        // SAFETY: as above; each has a NUL-terminated expression.
        unsafe {
            let Some(constraints) = (*self.relation().rd_att).constr.as_ref() else { return Vec::new() };
            let expression = |n: usize| (*constraints.check.add(n)).ccbin;
            let mut all: Vec<Check> = (0..constraints.num_check as usize).map(|n| self.check(expression(n))).collect();
            all.sort_by_key(|check| if let Check::Text(text) = check { text.clone() } else { String::new() });
            all
        }
    }

    /// # Safety
    /// The expression must be a stored one of this table.
    unsafe fn check(&self, stored: *const c_char) -> Check {
        // SAFETY: the caller's promise; a node has its tag's type.
        unsafe {
            let expression = pg_sys::stringToNode(stored).cast::<pg_sys::Node>();
            if (*expression).type_ == NodeTag::T_FuncExpr {
                let call = &*expression.cast::<pg_sys::FuncExpr>();
                return Check::Call(call.funcid, columns_of(call.args));
            }
            let arguments = [CStr::from_ptr(stored).to_str().ok().into_datum(), self.relation().rd_id.into_datum()];
            let text = pgrx::direct_function_call_as_datum(pg_sys::pg_get_expr, &arguments);
            Check::Text(text.map(|text| values::text(text).to_owned()).unwrap_or_default())
        }
    }

    /// Whether a column has this type, without a modifier.
    pub fn has_type(&self, column: usize, expected: Oid) -> bool {
        self.attribute(column, |attribute| attribute.atttypid == expected && attribute.atttypmod == -1)
    }

    pub fn is_not_null(&self, column: usize) -> bool {
        self.attribute(column, |attribute| attribute.attnotnull)
    }

    /// Returns the number of columns that are not dropped.
    pub fn live_columns(&self) -> usize {
        (1..=self.width()).filter(|column| self.attribute(*column, |attribute| !attribute.attisdropped)).count()
    }

    fn attribute(&self, column: usize, read: impl FnOnce(&pg_sys::FormData_pg_attribute) -> bool) -> bool {
        // SAFETY: an open table has a descriptor.
        let columns = unsafe { PgTupleDesc::from_pg_unchecked(self.relation().rd_att) };
        columns.get(column - 1).is_some_and(read)
    }

    /// Returns the default of a column.
    pub fn default(&self, column: usize) -> Default {
        // SAFETY: the column exists. The planner evaluates constant expressions; a node has its tag's type.
        unsafe {
            let expression =
                pg_sys::build_column_default(std::ptr::from_ref(self.relation()).cast_mut(), column as i32);
            if expression.is_null() {
                return Default::Null;
            }
            let expression = pg_sys::expression_planner(expression.cast());
            match (*expression).type_ {
                NodeTag::T_Const => {
                    let constant = &*expression.cast::<pg_sys::Const>();
                    match constant.consttype {
                        _ if constant.constisnull => Default::Null,
                        pg_sys::TEXTOID => Default::Text(values::text(constant.constvalue).to_owned()),
                        pg_sys::INT4OID | pg_sys::INT8OID => Default::Integer(constant.constvalue.value() as i64),
                        _ => Default::Other,
                    }
                }
                NodeTag::T_FuncExpr => {
                    let call = &*expression.cast::<pg_sys::FuncExpr>();
                    if call.args.is_null() { Default::Function(call.funcid) } else { Default::Other }
                }
                _ => Default::Other,
            }
        }
    }
}

/// Returns the columns that are a function's arguments, with 0 for other arguments.
///
/// # Safety
/// It must be null or a list of expressions.
unsafe fn columns_of(arguments: *const pg_sys::List) -> Vec<usize> {
    // SAFETY: the caller's promise; a node has its tag's type.
    unsafe {
        let Some(arguments) = arguments.as_ref() else { return Vec::new() };
        let column = |n: usize| {
            let argument = (*arguments.elements.add(n)).ptr_value.cast::<pg_sys::Var>();
            let is_column = (*argument).xpr.type_ == NodeTag::T_Var;
            if is_column { usize::try_from((*argument).varattno).unwrap_or(0) } else { 0 }
        };
        (0..arguments.length as usize).map(column).collect()
    }
}

/// Whether an expression is `function() OR ...`.
///
/// # Safety
/// It must be null or a node.
unsafe fn begins_with(expression: *mut pg_sys::Node, function: Oid) -> bool {
    // SAFETY: the caller's promise; a node has its tag's type, and OR has arguments.
    unsafe {
        if expression.is_null() || (*expression).type_ != NodeTag::T_BoolExpr {
            return false;
        }
        let either = &*expression.cast::<pg_sys::BoolExpr>();
        let first = (*(*either.args).elements).ptr_value.cast::<pg_sys::FuncExpr>();
        either.boolop == pg_sys::BoolExprType::OR_EXPR
            && (*first).xpr.type_ == NodeTag::T_FuncExpr
            && (*first).funcid == function
    }
}

/// Whether PostgreSQL made the trigger for a foreign key, of this table or of another one.
fn is_foreign_key(trigger: &pg_sys::Trigger) -> bool {
    const FUNCTIONS: [u32; 12] = [
        pg_sys::F_RI_FKEY_CHECK_INS,
        pg_sys::F_RI_FKEY_CHECK_UPD,
        pg_sys::F_RI_FKEY_CASCADE_DEL,
        pg_sys::F_RI_FKEY_CASCADE_UPD,
        pg_sys::F_RI_FKEY_RESTRICT_DEL,
        pg_sys::F_RI_FKEY_RESTRICT_UPD,
        pg_sys::F_RI_FKEY_SETNULL_DEL,
        pg_sys::F_RI_FKEY_SETNULL_UPD,
        pg_sys::F_RI_FKEY_SETDEFAULT_DEL,
        pg_sys::F_RI_FKEY_SETDEFAULT_UPD,
        pg_sys::F_RI_FKEY_NOACTION_DEL,
        pg_sys::F_RI_FKEY_NOACTION_UPD,
    ];
    trigger.tgisinternal && FUNCTIONS.contains(&trigger.tgfoid.to_u32())
}
