//! A validation table of a document: its cells as text, and as numbers.

use std::fmt::Debug;
use std::str::FromStr;

/// The table below a line `**Validation ID name**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The requirement it belongs to.
    pub id: String,
    /// Empty where the requirement has one table.
    pub name: String,
    /// Of the line that names it, from 1.
    pub line: usize,
    pub header: Vec<String>,
    /// As many cells in each as the header has.
    pub rows: Vec<Vec<String>>,
}

/// One row, whose cells are found by the header.
pub struct Row<'a> {
    table: &'a Table,
    cells: &'a [String],
}

impl Table {
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { table: self, cells })
    }

    /// All cells from column `first` on, row by row: a matrix.
    pub fn numbers(&self, first: usize) -> Vec<Vec<f64>> {
        let number = |cell: &String| parse::<f64>(self, cell);
        self.rows.iter().map(|row| row[first..].iter().map(number).collect()).collect()
    }

    /// The cell of column `value` in the row whose first cell is `key`: for tables of names and values.
    pub fn value<T: FromStr<Err: Debug>>(&self, key: &str) -> T {
        let row = self.rows().find(|row| row.cells[0] == key);
        row.unwrap_or_else(|| panic!("table {} {}: no row {key}", self.id, self.name)).get("value")
    }
}

impl Row<'_> {
    /// The cell of a column, as text.
    pub fn text(&self, column: &str) -> &str {
        let at = self.table.header.iter().position(|name| name == column);
        let at = at.unwrap_or_else(|| panic!("table {} {}: no column {column}", self.table.id, self.table.name));
        &self.cells[at]
    }

    pub fn get<T: FromStr<Err: Debug>>(&self, column: &str) -> T {
        parse(self.table, self.text(column))
    }

    /// The numbers of a cell, separated by spaces.
    pub fn list<T: FromStr<Err: Debug>>(&self, column: &str) -> Vec<T> {
        self.text(column).split_whitespace().map(|word| parse(self.table, word)).collect()
    }

    /// Words of 32 bits in hexadecimal, separated by spaces.
    pub fn hex_words(&self, column: &str) -> Vec<u32> {
        let word = |text| u32::from_str_radix(text, 16).expect("hexadecimal");
        self.text(column).split_whitespace().map(word).collect()
    }
}

fn parse<T: FromStr<Err: Debug>>(table: &Table, text: &str) -> T {
    text.parse().unwrap_or_else(|e| panic!("table {} {}: {text:?}: {e:?}", table.id, table.name))
}
