//! The objects and arrays of a jsonb, read in place by their format, which is the same in all versions of PostgreSQL: a
//! header, an entry of four bytes for each key or value, and their bytes. PostgreSQL's iterator takes a call for each.

use pgrx::pg_sys;

/// An object or an array.
#[derive(Clone, Copy)]
pub struct Container<'a>(&'a [u8]);

pub enum Item<'a> {
    Text(&'a [u8]),
    Array(Container<'a>),
    /// A value of another kind.
    Other,
}

impl<'a> Container<'a> {
    pub fn of(bytes: &'a [u8]) -> Container<'a> {
        Container(bytes)
    }

    /// Returns its bytes: equal ones have equal items.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn word(self, n: usize) -> u32 {
        self.0.get(4 * n..4 * n + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    fn len(self) -> usize {
        (self.word(0) & pg_sys::JB_CMASK) as usize
    }

    /// Returns the keys of an object with their values.
    pub fn pairs(self) -> impl Iterator<Item = (&'a [u8], Item<'a>)> {
        let count = self.len();
        let key = |item| if let Item::Text(key) = item { key } else { &[][..] };
        self.entries(2 * count).map(key).zip(self.entries(2 * count).skip(count)).take(count)
    }

    /// Returns the items of an array.
    pub fn items(self) -> impl Iterator<Item = Item<'a>> {
        self.entries(self.len())
    }

    fn entries(self, count: usize) -> impl Iterator<Item = Item<'a>> {
        let data = self.0.get(4 * (1 + count)..).unwrap_or_default();
        let mut end = 0;
        (0..count).map(move |n| {
            let (entry, start) = (self.word(1 + n), end);
            let length_or_end = (entry & pg_sys::JENTRY_OFFLENMASK) as usize;
            end = if entry & pg_sys::JENTRY_HAS_OFF == 0 { start + length_or_end } else { length_or_end };
            match entry & pg_sys::JENTRY_TYPEMASK {
                pg_sys::JENTRY_ISSTRING => Item::Text(data.get(start..end).unwrap_or_default()),
                pg_sys::JENTRY_ISCONTAINER => {
                    let container = Container(data.get(start.next_multiple_of(4)..end).unwrap_or_default());
                    let is_array = container.word(0) & pg_sys::JB_FARRAY != 0;
                    if is_array { Item::Array(container) } else { Item::Other }
                }
                _ => Item::Other,
            }
        })
    }
}
