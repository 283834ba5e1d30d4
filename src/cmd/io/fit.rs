//! Fits text to the terminal: breaks lines and tables between words. Without a terminal, lines stay whole, so that scripts
//! find related values in one line.

use std::{io::IsTerminal, ops::Range};
use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// The smallest width that is used: a narrower terminal is treated as this wide.
const LEAST: usize = 40;
/// Minimum width of the last column of a table that shares its line with other columns.
const LAST_COLUMN: usize = 24;
/// Spaces between columns.
const GAP: usize = 2;

/// Width in columns of the terminal that stdout is connected to; unlimited if stdout is no terminal.
#[must_use]
pub fn stdout_width() -> usize {
    let stdout = std::io::stdout();
    width(stdout.is_terminal().then(|| terminal_size_of(&stdout)).flatten().map(|(Width(columns), _)| columns))
}

/// Like [`stdout_width`], but for stderr.
#[must_use]
pub fn stderr_width() -> usize {
    let stderr = std::io::stderr();
    width(stderr.is_terminal().then(|| terminal_size_of(&stderr)).flatten().map(|(Width(columns), _)| columns))
}

fn width(columns: Option<u16>) -> usize {
    columns.filter(|columns| *columns > 0).map_or(usize::MAX, |columns| usize::from(columns).max(LEAST))
}

/// Breaks every line that is longer than `width`; the continuation lines are indented a little more than the line itself.
#[must_use]
pub fn lines(text: &str, width: usize) -> String {
    if width == usize::MAX {
        return text.to_owned();
    }
    text.split('\n').map(|line| one_line(line, width)).collect::<Vec<_>>().join("\n")
}

fn one_line(line: &str, width: usize) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    let indent = line.len() - line.trim_start_matches(' ').len();
    let hanging = (indent + 4).min(width / 2);
    let mut parts = wrapped(line.trim_start_matches(' '), width.saturating_sub(indent), width - hanging).into_iter();
    let mut out = format!("{}{}", " ".repeat(indent), parts.next().unwrap_or_default());
    for part in parts {
        out.push_str(&format!("\n{}{part}", " ".repeat(hanging)));
    }
    out
}

/// Wraps the words into lines: the first has at most `first` columns, all others `rest`. A longer word gets a line of its own
/// and stays whole, because users copy names and paths from the screen.
fn wrapped(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let room = if lines.len() == 1 { first } else { rest };
        let line = lines.len() - 1;
        let used = lines[line].width();
        if used > 0 && used + 1 + word.width() > room {
            lines.push(word.to_owned());
        } else {
            if !lines[line].is_empty() {
                lines[line].push(' ');
            }
            lines[line].push_str(word);
        }
    }
    lines
}

/// Formats a table with left-aligned columns, indented by two spaces. The first row is the heading.
///
/// In a narrow terminal the last column, which has the longest text, is broken between words. If that is not enough, the last
/// columns of each row move to further lines.
#[must_use]
pub fn table(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let groups = groups(&widths, width);
    let mut out = Vec::new();
    for row in rows {
        for (number, group) in groups.iter().enumerate() {
            let cells = &row[group.start.min(row.len())..group.end.min(row.len())];
            if number == 0 || !cells.iter().all(String::is_empty) {
                out.extend(row_lines(cells, &widths[group.clone()], width, indent(number)));
            }
        }
    }
    out.join("\n")
}

/// Indentation of the first line of a row (`line` 0) and of all further lines.
fn indent(line: usize) -> usize {
    if line == 0 { 2 } else { 6 }
}

/// Divides the columns of a row into lines; each line takes as many columns as fit.
fn groups(widths: &[usize], width: usize) -> Vec<Range<usize>> {
    let mut groups = vec![Range { start: 0, end: 0 }];
    let mut used = indent(0);
    for (column, wanted) in widths.iter().enumerate() {
        let least = if column + 1 == widths.len() { LAST_COLUMN.min(*wanted) } else { *wanted };
        let line = groups.len() - 1;
        if !groups[line].is_empty() && used + least > width {
            groups.push(column..column);
            used = indent(1);
        }
        let line = groups.len() - 1;
        groups[line].end = column + 1;
        used = used.saturating_add(wanted + GAP);
    }
    groups
}

fn row_lines(cells: &[String], widths: &[usize], width: usize, indent: usize) -> Vec<String> {
    let mut line = " ".repeat(indent);
    let Some((last, others)) = cells.split_last() else { return vec![String::new()] };
    for (cell, column) in others.iter().zip(widths) {
        line.push_str(cell);
        line.push_str(&" ".repeat(column.saturating_sub(cell.width()) + GAP));
    }
    let at = line.width();
    let room = width.saturating_sub(at).max(LAST_COLUMN);
    let mut parts = if last.width() <= room { vec![last.clone()] } else { wrapped(last, room, room) }.into_iter();
    line.push_str(&parts.next().unwrap_or_default());
    let mut lines = vec![line.trim_end().to_owned()];
    lines.extend(parts.map(|part| format!("{}{part}", " ".repeat(at))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn a_line_is_broken_between_words_and_only_where_it_must_be() {
        let text = "  WARNING: the main storage is shared by two\nshort";
        assert_eq!(lines(text, usize::MAX), text);
        assert_eq!(lines(text, 30), "  WARNING: the main storage is\n      shared by two\nshort");
        assert_eq!(
            lines("see /a/very/long/path/that/is/one/word here", 20),
            "see\n    /a/very/long/path/that/is/one/word\n    here"
        );
    }

    #[test]
    fn tables_line_up() {
        let rows = [row(&["A", "B"]), row(&["long", "x"])];
        assert_eq!(table(&rows, usize::MAX), "  A     B\n  long  x");
        let rows = [row(&["A", "B"]), row(&["ä日本", "x"])];
        assert_eq!(table(&rows, usize::MAX), "  A      B\n  ä日本  x");
    }

    #[test]
    fn a_table_fits_a_terminal_of_eighty_columns_and_no_word_is_broken() {
        let why =
            "incompatible: replica set 'another' of the backup should go to 'another', which the cluster does not have";
        let rows = [
            row(&["NAME", "SIZE", "TYPE", "PROFILE", "SELECTIVE", "RESTORE TIME", "STATUS"]),
            row(&["2026-03-01T12:00:00Z", "97.7 KiB", "logical", "archive", "no", "2026-03-01T12:00:20", why]),
            row(&["2026-03-01T11:00:00Z", "1023.9 MiB", "logical", "", "yes", "2026-03-01T11:00:20", "done"]),
        ];
        for width in [40, 60, 80, 100, 120] {
            let text = table(&rows, width);
            let widest = text.lines().map(UnicodeWidthStr::width).max().expect("lines");
            assert!(widest <= width, "{width}: {widest}\n{text}");
            for cell in rows.iter().flatten().flat_map(|cell| cell.split(' ')) {
                assert!(text.contains(cell), "{width}: {cell}\n{text}");
            }
        }
        assert_eq!(table(&rows, usize::MAX).lines().count(), 3);
        let text = table(&rows, 80);
        assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("  2026-03-01T12:00:00Z")), "{text}");
    }

    #[test]
    fn a_width_that_nobody_tells_is_no_limit() {
        assert_eq!(
            (width(None), width(Some(0)), width(Some(10)), width(Some(80))),
            (usize::MAX, usize::MAX, LEAST, 80)
        );
    }
}
