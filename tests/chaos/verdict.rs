//! The findings of the checker.

/// Violations of one kind: their number, and a description of the first ones.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub count: usize,
    pub first: Vec<String>,
}

impl Findings {
    const SHOWN: usize = 10;

    pub fn add(&mut self, describe: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(describe());
        }
    }

    pub fn all(descriptions: &[String]) -> Findings {
        Findings { count: descriptions.len(), first: descriptions.iter().take(Self::SHOWN).cloned().collect() }
    }
}

/// The findings in one place: the acknowledgments, the stream, or a reader.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub checked: usize,
    pub lost: Findings,
    pub duplicated: Findings,
    pub disordered: Findings,
    pub phantom: Findings,
    /// Events whose content differs from history.
    pub altered: Findings,
    /// Responses that a reader must never get.
    pub errors: Findings,
    /// Events not received because Redis or the connection was down.
    pub missed: usize,
    /// Events received more than once, which a receiver must expect.
    pub repeated: usize,
}

impl Verdict {
    pub fn findings(&self) -> [(&'static str, &Findings); 6] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("out of order", &self.disordered),
            ("phantom", &self.phantom),
            ("altered", &self.altered),
            ("errors", &self.errors),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_, findings)| findings.count == 0)
    }
}
