//! What differs from run to run, taken out of the program's output.

/// Replaces every text of the first column by that of the second, in this order.
#[derive(Debug, Default)]
pub struct Names(pub Vec<(String, String)>);

impl Names {
    /// Known names, and seconds that depend on when one looks: `no heartbeat for 41 s`, `about 1m2s left`.
    pub fn hide(&self, text: &str) -> String {
        let named = self.0.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let silent = between(&named, "no heartbeat for ", " s (limit", "N");
        let left = between(&silent, ", about ", " left", "TIME");
        between(&left, "\"secondsLeft\": ", "\n", "0")
    }
}

/// Replaces what stands between `before` and `after`, on one line, by `new`.
fn between(text: &str, before: &str, after: &str, new: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(before);
        match part.find(after).filter(|end| !part[..*end].contains('\n')) {
            Some(end) => out.extend([new, &part[end..]]),
            None => out.push_str(part),
        }
    }
    out
}

#[test]
fn what_differs_is_hidden() {
    let names = Names(vec![("127.0.0.1:4711".to_owned(), "rs0:1".to_owned())]);
    let text =
        "127.0.0.1:4711: no heartbeat for 41 s (limit 30 s)\n  dump, about 1m2s left\n \"secondsLeft\": 62\n about ";
    let hidden = "rs0:1: no heartbeat for N s (limit 30 s)\n  dump, about TIME left\n \"secondsLeft\": 0\n about ";
    assert_eq!(names.hide(text), hidden);
}
