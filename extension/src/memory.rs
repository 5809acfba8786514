//! Rust's memory for as much as a caller sends. Rust aborts the process if an allocation fails, and with it the server.

use crate::errors;

/// Adds an item. Raises an error if memory runs out.
pub fn push<T>(items: &mut Vec<T>, item: T) {
    items.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
    items.push(item);
}

/// Collects items. Raises an error if memory runs out.
pub fn collect<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    items.into_iter().for_each(|item| push(&mut all, item));
    all
}

/// Copies bytes. Raises an error if memory runs out.
pub fn copy_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).unwrap_or_else(|_| errors::out_of_memory());
    copy.extend_from_slice(bytes);
    copy
}

/// Copies a text. Raises an error if memory runs out.
pub fn copy(text: &str) -> String {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).unwrap_or_else(|_| errors::out_of_memory());
    copy.push_str(text);
    copy
}
