//! Writes JSON text with the escapes and the layout of the original's files (docs/format.md A.2), and reads JSON of
//! others.

use anyhow::Context as _;
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{cell::Cell, fmt};

/// Reads the first JSON value of a file. Anybody may have written the file, so a value that contains more than `most` values
/// is refused: this keeps the memory use close to the size of the file. Members whose names are in `skipped`, in upper or
/// lower case, are left out and don't count.
///
/// # Errors
/// The file does not begin with a JSON value, or that value contains too many values.
pub fn first_value(bytes: &[u8], most: usize, skipped: &[&str]) -> anyhow::Result<Value> {
    let left = Cell::new(most);
    let value = Bounded { left: &left, skipped }.deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    value.context("parse the file as JSON")
}

#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
    skipped: &'a [&'a str],
}

impl Bounded<'_> {
    fn count<E: de::Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom("it holds more values than make sense"))?);
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.count(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.count(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.count(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.count(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.count(value)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.count(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            items.push(item);
        }
        self.count(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if self.skipped.iter().any(|skipped| skipped.eq_ignore_ascii_case(&name)) {
                from.next_value::<IgnoredAny>()?;
            } else {
                members.insert(name, from.next_value_seed(self)?);
            }
        }
        self.count(members)
    }
}

/// Appends a quoted string. `<`, `>`, `&` and the two Unicode line separators are escaped, too.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends a comma, except before the first element.
pub fn push_comma(out: &mut String, index: usize) {
    if index > 0 {
        out.push(',');
    }
}

/// Formats compact JSON in lines, with each level indented by `unit`. Empty arrays and objects stay on their line.
pub fn indent(compact: &str, unit: &str) -> String {
    let mut out = String::with_capacity(compact.len() * 2);
    let mut depth = 0;
    let mut in_string = false;
    let mut escaped = false;
    let mut just_opened = false;
    for c in compact.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if just_opened && !closes {
            depth += 1;
            new_line(&mut out, unit, depth);
        }
        match c {
            '}' | ']' => {
                if !just_opened {
                    depth -= 1;
                    new_line(&mut out, unit, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, unit, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
        in_string = c == '"';
        just_opened = matches!(c, '{' | '[');
    }
    out
}

fn new_line(out: &mut String, unit: &str, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(unit, depth));
}

#[cfg(test)]
mod tests {
    use super::{first_value, indent, push_string};

    #[test]
    fn no_file_takes_much_more_memory_than_it_has_bytes() {
        let text = br#"{"a": [1, -2, 2.5, "x", null, true], "FILES": [{"name": "f"}, {}], "b": {"c": {}}} and more"#;
        let read = first_value(text, 10, &["files"]).unwrap();
        assert_eq!(read, serde_json::json!({"a": [1, -2, 2.5, "x", null, true], "b": {"c": {}}}));
        let error = format!("{:#}", first_value(text, 9, &["files"]).unwrap_err());
        assert!(error.contains("more values than make sense"), "{error}");
        for bad in ["", " ", "{", "[1,", "nil"] {
            assert!(first_value(bad.as_bytes(), 10, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        push_string(&mut out, "a\"\\/<>&\u{2028}\u{2029}\n\r\t\u{8}\u{c}\u{1}\u{7f}ü😀");
        assert_eq!(out, "\"a\\\"\\\\/\\u003c\\u003e\\u0026\\u2028\\u2029\\n\\r\\t\\b\\f\\u0001\u{7f}ü😀\"");
        assert_eq!(
            serde_json::from_str::<String>(&out).unwrap(),
            "a\"\\/<>&\u{2028}\u{2029}\n\r\t\u{8}\u{c}\u{1}\u{7f}ü😀"
        );
    }

    #[test]
    fn layout() {
        let compact = r#"{"a":[],"b":{},"c":[1,{"d":"{\"x\":[,]}\\"}],"e":null}"#;
        let lines = "{\n\t\"a\": [],\n\t\"b\": {},\n\t\"c\": [\n\t\t1,\n\t\t{\n\t\t\t\"d\": \"{\\\"x\\\":[,]}\\\\\"\n\t\t}\n\t],\n\t\"e\": null\n}";
        assert_eq!(indent(compact, "\t"), lines);
    }
}
