//! The tables of `specs/architecture.md` that the tidy rules read. A table follows its marker, `<!-- name -->`.

/// The cells of the table after `<!-- name -->`, header left out. Only what stands in backquotes is data.
fn rows(text: &str, name: &str) -> Vec<Vec<Vec<String>>> {
    let marker = format!("<!-- {name} -->");
    let (_, after) = text.split_once(&marker).unwrap_or_else(|| panic!("no table {marker}"));
    let table = after.lines().map(str::trim).skip_while(|l| l.is_empty()).take_while(|l| l.starts_with('|'));
    let rows: Vec<_> = table.skip(2).map(|line| line.trim_matches('|').split('|').map(cell).collect()).collect();
    assert!(!rows.is_empty(), "table {marker} is empty");
    rows
}

/// The backquoted words of a cell; a cell with none gives its plain words.
fn cell(text: &str) -> Vec<String> {
    if text.contains('`') {
        return text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

/// Which module may use which. `types` is open to all.
pub struct Edges(Vec<(Vec<String>, Vec<Vec<String>>)>);

impl Edges {
    pub fn parse(text: &str) -> Self {
        let path = |word: &String| word.split("::").map(str::to_owned).collect::<Vec<_>>();
        let edge = |cells: Vec<Vec<String>>| (path(&cells[0][0]), cells[1].iter().map(path).collect());
        Self(rows(text, "edges").into_iter().map(edge).collect())
    }

    /// Whether `module` may name `path`: its most exact row counts, and only that.
    pub fn allow(&self, module: &[String], path: &[String]) -> bool {
        let row = self.0.iter().filter(|(from, _)| module.starts_with(from)).max_by_key(|(from, _)| from.len());
        path[0] == "types" || row.is_some_and(|(_, targets)| targets.iter().any(|t| path.starts_with(t)))
    }

    /// Edges whose target stands above the row that uses it.
    pub fn upward(&self) -> Vec<String> {
        let place = |module: &str| self.0.iter().rposition(|(from, _)| from[0] == module);
        let mut breaches = Vec::new();
        for (from, targets) in &self.0 {
            for to in targets.iter().filter(|to| to[0] != from[0]) {
                if place(&to[0]).is_none_or(|below| Some(below) < place(&from[0])) {
                    breaches.push(format!("{} -> {} points upward or nowhere", from.join("::"), to.join("::")));
                }
            }
        }
        breaches
    }

    pub fn has_row(&self, module: &str) -> bool {
        self.0.iter().any(|(from, _)| from[..] == [module])
    }
}

/// Words and the only files or folders that may hold them.
pub struct Owners(Vec<(String, Vec<String>)>);

impl Owners {
    pub fn parse(text: &str) -> Self {
        let words = |cells: Vec<Vec<String>>| {
            let places = cells[1].clone();
            cells[0].iter().map(|word| (word.clone(), places.clone())).collect::<Vec<_>>()
        };
        Self(rows(text, "owners").into_iter().flat_map(words).collect())
    }

    /// The words that may not occur in the file `path`, with the places where they may.
    pub fn foreign_to(&self, path: &str) -> Vec<(&str, &[String])> {
        let is_home = |place: &String| path == place || (place.ends_with('/') && path.starts_with(&place[..]));
        let foreign = self.0.iter().filter(|(_, places)| !places.iter().any(is_home));
        foreign.map(|(word, places)| (&word[..], &places[..])).collect()
    }
}

/// Files that may be longer than the rule.
pub struct Lengths(Vec<(String, usize)>);

impl Lengths {
    pub fn parse(text: &str) -> Self {
        let limit = |cells: &Vec<Vec<String>>| Some((cells[0].first()?.clone(), cells[1].first()?.parse().ok()?));
        Self(rows(text, "lengths").iter().filter_map(limit).collect())
    }

    pub fn exception(&self, path: &str) -> Option<usize> {
        self.0.iter().find(|(file, _)| file == path).map(|(_, lines)| *lines)
    }
}
