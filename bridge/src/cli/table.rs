//! Text in columns.

/// Rows of cells under a heading, each column as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A column whose heading begins with `>` is flush right.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self {
            right: heading.iter().map(|h| h.starts_with('>')).collect(),
            rows: vec![heading.iter().map(|h| h.trim_start_matches('>').to_owned()).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths.get(i).copied().unwrap_or(0).saturating_sub(cell.chars().count()));
                if self.right.get(i).copied().unwrap_or(false) {
                    line.extend([pad.as_str(), cell, "  "]);
                } else {
                    line.extend([cell, pad.as_str(), "  "]);
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["MDT", ">read"]);
        table.row(vec!["fs-MDT0000".to_owned(), "7".to_owned()]);
        table.row(vec!["x".to_owned(), "123456".to_owned()]);
        assert_eq!(table.to_string(), "MDT           read\nfs-MDT0000       7\nx           123456\n");
    }
}
