//! Makes text from other sources harmless for a terminal.
//!
//! A user who may write a single database chooses the names of its collections, and these names appear in plans, errors and
//! logs that an operator reads before confirming. Control characters in a name could move the cursor, hide text or begin a
//! new line; characters that change the writing direction or have no width could make one name look like another. All of them
//! are written as escapes: `\n`, `\u{1b}`, `\u{202e}`.

use serde_json::Value;
use std::borrow::Cow;

/// Escapes text that must stay within one line: line ends are escaped, too.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Colours that our own lines may have.
const COLOURS: [&str; 4] = ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"];

/// Escapes lines that this program has laid out: their line ends and our colours are kept.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && acts(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = COLOURS.iter().find(|colour| rest.starts_with(**colour)).map_or(0, |colour| colour.len());
        let (taken, after) = rest.split_at(colour.max(c.len_utf8()));
        if colour > 0 || c == '\n' {
            out.push_str(taken)
        } else {
            out.push_str(&line(taken))
        }
        rest = after;
    }
    Cow::Owned(out)
}

/// Escapes `text`, the layout of a value that may contain foreign text. Foreign text must stay within one line. `value` is
/// the same data as JSON, where each piece of foreign text is a separate string.
#[must_use]
pub fn laid_out(text: String, value: &Value) -> String {
    let mut foreign = Vec::new();
    find_acting(value, &mut foreign);
    // Longer texts come first, because one text may be a part of another.
    foreign.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let text = foreign.iter().fold(text, |text, foreign| text.replace(*foreign, &line(foreign)));
    lines(&text).into_owned()
}

fn find_acting<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        // Blank text can't be told from the layout of the report itself.
        Value::String(text) if text.contains(acts) && !text.trim().is_empty() => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| find_acting(item, found)),
        Value::Object(map) => {
            found.extend(map.keys().map(String::as_str).filter(|key| key.contains(acts) && !key.trim().is_empty()));
            map.values().for_each(|value| find_acting(value, found));
        }
        _ => {}
    }
}

/// Escapes JSON text. JSON itself escapes most control characters; the remaining ones can only be in strings.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && acts(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if acts(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A character that a terminal obeys or does not show. All of them are below U+FFFF.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (raw, shown) in [
            ("plain ü 漢 😀 \\n", "plain ü 漢 😀 \\n"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("x\u{202e}gpj\u{2066}\u{200b}\u{feff}", "x\\u{202e}gpj\\u{2066}\\u{200b}\\u{feff}"),
            ("a\u{2028}b\u{85}", "a\\u{2028}b\\u{85}"),
        ] {
            assert_eq!(line(raw), shown);
            assert_eq!(lines(raw).replace('\n', "\\n"), shown, "our own line ends stay");
            let text = serde_json::to_string(raw).expect("json");
            assert_eq!(serde_json::from_str::<String>(&json(&text)).expect("still JSON"), raw);
            assert!(!json(&text).contains(acts), "{text}");
        }
        assert!(matches!(line("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_name_forges_no_line_of_a_report() {
        let report = serde_json::json!({ "drops": ["shop.a\n  creates 0", "shop.a"], "of": { "rs\n0": 1 }, "note": "two\nlines" });
        let text = "rs\n0:\n  drops\n    shop.a\n  creates 0\n    shop.a\n  note two\nlines \u{1b}[31mred\u{1b}[0m \u{1b}[8mhidden".to_owned();
        let shown = "rs\\n0:\n  drops\n    shop.a\\n  creates 0\n    shop.a\n  note two\\nlines \u{1b}[31mred\u{1b}[0m \\u{1b}[8mhidden";
        assert_eq!(laid_out(text, &report), shown);
    }
}
