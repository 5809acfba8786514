//! The README's SQL does what the README says.
