//! JSON text with the escapes and the layout of the original's files (spec/format.md A.2).

/// Appends a quoted string. `<`, `>`, `&` and the two Unicode line separators are escaped too.
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

/// Appends the comma before any element but the first.
pub fn push_comma(out: &mut String, index: usize) {
    if index > 0 {
        out.push(',');
    }
}

/// Lays compact JSON out in lines, each level indented by `unit`. Empty arrays and objects stay on their line.
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
    use super::{indent, push_string};

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
