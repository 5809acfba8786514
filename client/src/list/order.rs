//! Orders of lists: `name` ascending, `-name` descending.

use std::fmt;
use std::str::FromStr;

/// Fields that a list can be ordered by.
pub trait Sort: Copy + PartialEq + 'static {
    /// All fields of this list.
    const ALL: &'static [Self];
    /// Returns the field's name.
    fn name(self) -> &'static str;
}

/// An order: a field and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy<S> {
    /// The field.
    pub by: S,
    /// Whether the greatest value comes first.
    pub descending: bool,
}

impl<S> OrderBy<S> {
    /// Orders with the least value first.
    pub const fn ascending(by: S) -> OrderBy<S> {
        OrderBy { by, descending: false }
    }

    /// Orders with the greatest value first.
    pub const fn descending(by: S) -> OrderBy<S> {
        OrderBy { by, descending: true }
    }
}

impl<S: Sort> OrderBy<S> {
    /// Returns the names of all orders.
    pub fn names() -> Vec<String> {
        let all = S::ALL.iter().flat_map(|by| [OrderBy::ascending(*by), OrderBy::descending(*by)]);
        all.map(|order| order.to_string()).collect()
    }
}

impl<S: Sort> fmt::Display for OrderBy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.descending { "-" } else { "" }, self.by.name())
    }
}

/// A text that names no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown order \"{0}\"")]
pub struct UnknownOrder(String);

impl<S: Sort> FromStr for OrderBy<S> {
    type Err = UnknownOrder;

    fn from_str(text: &str) -> Result<OrderBy<S>, UnknownOrder> {
        let (descending, name) = match text.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, text),
        };
        let by = S::ALL.iter().find(|by| by.name() == name);
        by.map(|by| OrderBy { by: *by, descending }).ok_or_else(|| UnknownOrder(text.to_owned()))
    }
}

macro_rules! sorts {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $field:literal),+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$what])* $variant),+ }

        impl Sort for $name {
            const ALL: &'static [$name] = &[$($name::$variant),+];

            fn name(self) -> &'static str {
                match self { $($name::$variant => $field),+ }
            }
        }
    };
}

sorts!(
    /// Orders of DAGs.
    DagSort {
        /// By creation time.
        Id = "id",
        /// By name.
        Name = "name"
    }
);
sorts!(
    /// Orders of runs.
    DagRunSort {
        /// By creation time.
        Id = "id",
        /// By execution date.
        ExecutionDate = "execution_date"
    }
);
sorts!(
    /// Orders of tasks.
    TaskInstanceSort {
        /// By creation time.
        Id = "id",
        /// By name; across runs, run by run.
        TaskId = "task_id"
    }
);
sorts!(
    /// Orders of claims.
    ClaimSort {
        /// By creation time of the task.
        Id = "id"
    }
);
sorts!(
    /// Orders of queues.
    QueueSort {
        /// By name.
        Name = "name"
    }
);
sorts!(
    /// Orders of events.
    HistorySort {
        /// By the time of the write.
        Id = "id"
    }
);
sorts!(
    /// Orders of log lines.
    TaskLogSort {
        /// By the time of arrival.
        Id = "id"
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_parses_from_its_name() {
        for text in ["id", "-id", "execution_date", "-execution_date"] {
            assert_eq!(text.parse::<OrderBy<DagRunSort>>().unwrap().to_string(), text);
        }
        for text in ["", "-", "--id", "ID", "state"] {
            assert!(text.parse::<OrderBy<DagRunSort>>().is_err(), "{text}");
        }
        assert_eq!(OrderBy::<DagSort>::names().join(", "), "id, -id, name, -name");
    }
}
