//! Tables of other roles whose rows belong to ours by foreign keys.
//!
//! PostgreSQL compares the keys as the owner of our tables, a superuser, and calls a cast of the other table's owner if
//! the types differ. And the rows that go with ours go in the transaction of the role that deletes ours: before
//! PostgreSQL 18 their triggers run as this role at its end. So what a role without superuser rights creates there may
//! contain no code. Nor may a table that PostgreSQL only reads meanwhile: the planner evaluates functions with constant
//! arguments in its expressions, and they could leave a deferred trigger.

use crate::errors::{self, Fault};
use crate::ffi::ddl::{self, Created, ForeignKey};
use crate::ffi::{member, session};
use pgrx::pg_sys::Oid;

/// Raises an error if code of the current role could run with other roles' rights.
pub fn check(created: Created) {
    if session::is_superuser() {
        return;
    }
    let fault = match created {
        Created::ForeignKey(key) => fault_of_new_key(&key),
        Created::Code(table) => is_dependent(table, &ddl::all_foreign_keys()).then_some((table, Fault::Code)),
        Created::Expression(table) => {
            (ddl::has_expressions_of_users(table) && is_read(table)).then_some((table, Fault::Expression))
        }
    };
    if let Some((table, fault)) = fault {
        errors::unsafe_dependent(&member::any_name(table), fault);
    }
}

fn fault_of_new_key(key: &ForeignKey) -> Option<(Oid, Fault)> {
    let keys = ddl::all_foreign_keys();
    let is_ours = member::is_relation(key.referenced);
    if !is_ours && !is_dependent(key.referenced, &keys) {
        return None;
    }
    if is_ours && key.has_same_types && !is_action_free(key.on_update) {
        return Some((key.table, Fault::Action));
    }
    fault_of_key(key, &keys, &mut Vec::new())
}

/// Looks for code that runs when the referenced row goes: at the key's table, and at tables whose rows go with its rows.
fn fault_of_key(key: &ForeignKey, keys: &[ForeignKey], seen: &mut Vec<Oid>) -> Option<(Oid, Fault)> {
    let table = key.table;
    if !key.has_same_types {
        // Compared when a row goes, whatever the action.
        Some((table, Fault::Types))
    } else if !is_action_safe(key.on_delete) {
        Some((table, Fault::Action))
    } else if ddl::has_expressions_of_users(table) {
        Some((table, Fault::Expression))
    } else if is_action_free(key.on_delete) || seen.contains(&table) {
        None
    } else if ddl::has_code(table) {
        Some((table, Fault::Code))
    } else {
        seen.push(table);
        keys.iter().filter(|key| key.referenced == table).find_map(|key| fault_of_key(key, keys, seen))
    }
}

/// NO ACTION and RESTRICT.
fn is_action_free(action: u8) -> bool {
    matches!(action, b'a' | b'r')
}

/// Also CASCADE. SET NULL and SET DEFAULT evaluate the expressions of indexes and constraints.
fn is_action_safe(action: u8) -> bool {
    is_action_free(action) || action == b'c'
}

/// Whether PostgreSQL reads the table when rows of ours go.
fn is_read(table: Oid) -> bool {
    let keys = ddl::all_foreign_keys();
    let refers = |key: &ForeignKey| member::is_relation(key.referenced) || is_dependent(key.referenced, &keys);
    keys.iter().any(|key| key.table == table && refers(key))
}

/// Whether rows of the table go when rows of ours go.
fn is_dependent(table: Oid, keys: &[ForeignKey]) -> bool {
    let (mut reached, mut next) = (vec![table], 0);
    while let Some(&table) = reached.get(next) {
        for key in keys.iter().filter(|key| key.table == table && !is_action_free(key.on_delete)) {
            if member::is_relation(key.referenced) {
                return true;
            }
            if !reached.contains(&key.referenced) {
                reached.push(key.referenced);
            }
        }
        next += 1;
    }
    false
}
