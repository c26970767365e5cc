//! The specifications as tests see them: which requirement a test covers, and the numbers of a requirement's tables.
//!
//! One folder for three users: the unit tests (`src/lib.rs`), the integration tests (`tests/it/main.rs`), and
//! `tests/traceability.rs`, which checks what the other two left in their logs. The forms are described in
//! `specs/SPEC_DEVELOPMENT_PROCESS.md`.
// Each user needs a part.
#![allow(dead_code)]

pub mod coverage;
pub mod document;
pub mod table;

/// Says that the test it stands in checks these requirements. It counts when the test's scope ends without a panic, so
/// it belongs at the beginning of a test that checks them on every machine, whatever data and processor it has.
macro_rules! covers {
    ($($id:expr),+ $(,)?) => {
        let _covered = $crate::spec::coverage::Covered::new(&[$($id),+], ::std::any::type_name_of_val(&|| ()));
    };
}

/// The validation table of a requirement, read from its document.
///
/// # Panics
/// There is none.
pub fn table(id: &str) -> table::Table {
    named_table(id, "")
}

/// One of several validation tables of a requirement: `**Validation ID name**`.
///
/// # Panics
/// There is none of this name.
pub fn named_table(id: &str, name: &str) -> table::Table {
    let found = document::read_all().into_iter().flat_map(|d| d.tables).find(|t| t.id == id && t.name == name);
    let table = found.unwrap_or_else(|| panic!("specs/ has no table **Validation {id} {name}**"));
    coverage::table_was_read(id, name);
    table
}
