//! The text of a jsonb, measured or cut without formatting it: a number of 14 bytes can take 131,072 as text.

use super::jsonb::Jsonb;
use pgrx::pg_sys::{self, JsonbIteratorToken as Token, JsonbValue, jbvType};
use serde_json::{Map, Value};
use std::ffi::CStr;

impl Jsonb {
    /// Whether its text has at most `limit` bytes.
    pub fn fits(self, limit: usize) -> bool {
        const LARGEST_RATIO: usize = 16_384;
        self.size() <= limit / LARGEST_RATIO || Text::of(self.root(), limit, 0).length <= limit
    }

    /// Returns the first fields of an object, each long value cut to this number of characters.
    pub fn shortened(self, fields: usize, length: usize) -> Map<String, Value> {
        let mut shortened = Map::new();
        let mut key = String::new();
        walk(self.root(), true, |token, value| {
            match token {
                Token::WJB_KEY => key = start(string(value), length),
                Token::WJB_VALUE => drop(shortened.insert(std::mem::take(&mut key), short_value(value, length))),
                _ => {}
            }
            shortened.len() < fields
        });
        shortened
    }
}

fn short_value(value: &JsonbValue, length: usize) -> Value {
    let text = match value.type_ {
        jbvType::jbvString => return Value::from(start(string(value), length)),
        // SAFETY: the type says which member is set.
        jbvType::jbvBinary => Text::of(unsafe { value.val.binary.data }, 8 * length, 8 * length),
        _ => {
            let mut text = Text::new(8 * length, 8 * length);
            text.add_scalar(value);
            text
        }
    };
    let is_short = text.length <= text.limit && text.start.chars().count() <= length;
    let whole = is_short.then(|| serde_json::from_str(&text.start).ok()).flatten();
    whole.unwrap_or_else(|| Value::from(start(text.start.as_bytes(), length)))
}

/// Returns at most this number of characters.
fn start(text: &[u8], length: usize) -> String {
    let bytes = &text[..text.len().min(4 * length)];
    String::from_utf8_lossy(bytes).chars().take(length).collect()
}

/// Calls `visit` with each token and its value, until it returns false.
fn walk(
    container: *mut pg_sys::JsonbContainer,
    skip_nested: bool,
    mut visit: impl FnMut(Token::Type, &JsonbValue) -> bool,
) {
    // SAFETY: the container is part of a detoasted jsonb; the iterator fills the value as the token says.
    unsafe {
        let mut iterator = pg_sys::JsonbIteratorInit(container);
        let mut value = JsonbValue::default();
        loop {
            let token = pg_sys::JsonbIteratorNext(&raw mut iterator, &raw mut value, skip_nested);
            if token == Token::WJB_DONE || !visit(token, &value) {
                return;
            }
            pgrx::check_for_interrupts!();
        }
    }
}

/// Returns the bytes of a key or a string.
fn string(value: &JsonbValue) -> &[u8] {
    // SAFETY: the iterator returns keys and strings as a pointer into the jsonb, with their length.
    unsafe {
        let string = value.val.string;
        std::slice::from_raw_parts(string.val.cast(), usize::try_from(string.len).unwrap_or(0))
    }
}

/// A text that is measured up to `limit`. `start` has about its first `kept` bytes.
struct Text {
    limit: usize,
    kept: usize,
    length: usize,
    start: String,
}

impl Text {
    fn new(limit: usize, kept: usize) -> Text {
        Text { limit, kept, length: 0, start: String::new() }
    }

    /// Measures the text of an object or an array, as `jsonb_out` formats it.
    fn of(container: *mut pg_sys::JsonbContainer, limit: usize, kept: usize) -> Text {
        let mut text = Text::new(limit, kept);
        let (mut is_first, mut is_scalar) = (true, false);
        walk(container, false, |token, value| {
            let begins = matches!(token, Token::WJB_BEGIN_ARRAY | Token::WJB_BEGIN_OBJECT);
            if !is_first && (begins || matches!(token, Token::WJB_KEY | Token::WJB_ELEM)) {
                text.add(", ");
            }
            match token {
                // SAFETY: the token says which member is set. A scalar is an array without brackets.
                Token::WJB_BEGIN_ARRAY => match unsafe { value.val.array.rawScalar } {
                    true => is_scalar = true,
                    false => text.add("["),
                },
                Token::WJB_END_ARRAY if is_scalar => {}
                Token::WJB_END_ARRAY => text.add("]"),
                Token::WJB_BEGIN_OBJECT => text.add("{"),
                Token::WJB_END_OBJECT => text.add("}"),
                Token::WJB_KEY => {
                    text.add_string(string(value));
                    text.add(": ");
                }
                _ => text.add_scalar(value),
            }
            is_first = begins || token == Token::WJB_KEY;
            text.length <= limit
        });
        text
    }

    fn add(&mut self, part: &str) {
        self.length += part.len();
        if self.start.len() < self.kept {
            self.start.push_str(part);
        }
    }

    fn add_scalar(&mut self, value: &JsonbValue) {
        match value.type_ {
            jbvType::jbvNull => self.add("null"),
            jbvType::jbvString => self.add_string(string(value)),
            // SAFETY: the type says which member is set.
            jbvType::jbvBool => self.add(if unsafe { value.val.boolean } { "true" } else { "false" }),
            // SAFETY: numeric_out takes a numeric and returns a NUL-terminated text: of a single number, which is
            // freed at once.
            jbvType::jbvNumeric => unsafe {
                let number = pg_sys::Datum::from(value.val.numeric);
                let text = pgrx::direct_function_call_as_datum(pg_sys::numeric_out, &[Some(number)]);
                if let Some(text) = text {
                    self.add(&CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy());
                    pg_sys::pfree(text.cast_mut_ptr());
                }
            },
            _ => {}
        }
    }

    fn add_string(&mut self, string: &[u8]) {
        if self.start.len() < self.kept {
            let string = String::from_utf8_lossy(&string[..string.len().min(self.kept)]);
            self.start.push_str(&serde_json::to_string(&string).unwrap_or_default());
        }
        self.length += 2 + string.iter().map(|byte| escaped_length(*byte)).sum::<usize>();
    }
}

/// Returns the number of bytes that a byte of a string takes in JSON.
fn escaped_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..32 => 6,
        _ => 1,
    }
}
