//! Whether two texts are the same but for what differs from run to run: times, sizes, identifiers, versions, large numbers.

const SIZES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
const TIMES: [&str; 6] = ["ms", "s", "min", "h", "d", "days"];

/// A line without what differs from run to run. Several spaces count as one: columns are as wide as their contents.
pub fn normalized(line: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let is_number = word.trim_start_matches('(').parse::<f64>().is_ok();
        let unit = words.peek().map_or("", |next| next.trim_end_matches([',', '.', ')', ';']));
        let both = [(&SIZES[..], "SIZE"), (&TIMES[..], "DURATION"), (&["%"][..], "SHARE")];
        match both.iter().find(|(units, _)| is_number && units.contains(&unit)) {
            Some((_, name)) => {
                let after = words.next().map_or("", |next| &next[unit.len()..]);
                out.push(format!("{}{name}{after}", if word.starts_with('(') { "(" } else { "" }));
            }
            None => out.push(replace_what_differs(word)),
        }
    }
    out.join(" ")
}

fn is_part_of_a_run(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || ['.', ':', '-', '+'].contains(&letter)
}

/// A word with its runs of letters and digits replaced, where they differ from run to run.
fn replace_what_differs(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|it| is_part_of_a_run(it) != is_part_of_a_run(first)).unwrap_or(rest.len());
        if let Some(time) = leading_time(rest) {
            out.push_str("TIME");
            rest = &rest[time.len()..];
            continue;
        }
        let (run, after) = rest.split_at(end);
        let bare = run.trim_end_matches(['.', ':', '-', '+']);
        // A cluster time: `1772360430,5`.
        let is_increment = out.ends_with("N,") && bare.bytes().all(|it| it.is_ascii_digit());
        let new = if is_increment { Some("N") } else { replacement(bare) };
        out.push_str(if bare.is_empty() { run } else { new.unwrap_or(bare) });
        if !bare.is_empty() {
            out.push_str(&run[bare.len()..]);
        }
        rest = after;
    }
    out
}

/// The time at the beginning of a run: `2026-03-01T10:20:30`, with a fraction and a `Z` if there are any.
fn leading_time(run: &str) -> Option<&str> {
    let bytes = run.as_bytes();
    let digit_or = |n: usize, byte: &u8| matches!(n, 4 | 7 | 10 | 13 | 16) || byte.is_ascii_digit();
    if bytes.len() < 19 || bytes[10] != b'T' || !bytes.iter().take(19).enumerate().all(|(n, byte)| digit_or(n, byte)) {
        return None;
    }
    let digits = |from: usize| bytes[from..].iter().take_while(|it| it.is_ascii_digit()).count();
    let mut end = 19;
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    Some(&run[..end + usize::from(bytes.get(end) == Some(&b'Z'))])
}

fn replacement(run: &str) -> Option<&'static str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if run.len() == 24 && run.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Some("ID");
    }
    let parts: Vec<&str> = run.trim_start_matches('v').split('.').collect();
    if (parts.len() == 3 || parts.len() == 2) && parts.iter().all(|it| digits(it)) {
        return Some("VERSION");
    }
    if digits(run) && run.len() >= 3 {
        return Some("N");
    }
    let is_duration = run.starts_with(|it: char| it.is_ascii_digit())
        && run.ends_with(['s', 'm', 'h'])
        && run.bytes().all(|it| it.is_ascii_digit() || b"smh".contains(&it));
    is_duration.then_some("DURATION")
}

/// The times in a line, in its order.
pub fn find_times(line: &str) -> Vec<&str> {
    line.split(|it| !is_part_of_a_run(it)).filter_map(leading_time).collect()
}

/// Whether `shown` is what `printed` is. A line `...` of `shown` stands for any lines.
pub fn matches_shown(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "..." => (0..=printed.len()).any(|n| matches_shown(rest, &printed[n..])),
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, after)| normalized(line) == normalized(first) && matches_shown(rest, after)),
    }
}

#[test]
fn only_what_differs_from_run_to_run_is_passed_over() {
    let equal = |a: &str, b: &str| normalized(a) == normalized(b);
    assert!(equal("Starting backup '2026-03-01T10:20:30Z'", "Starting backup '2027-12-31T23:59:59Z'"));
    assert!(equal("[restore/2026-03-01T10:20:30.5Z] done.", "[restore/2026-03-01T10:20:31.123456Z] done."));
    assert!(equal("report/2026-03-01T10:20:30Z.log", "report/2026-03-01T10:20:31Z.log"));
    assert!(!equal("report/2026-03-01T10:20:30Z.log", "report/2026-03-01T10:20:31Z.json"));
    assert!(equal("complete: 5.0 KiB in /srv", "complete: 123 B in /srv"));
    assert!(equal("40 s not saved yet, 79 s of 134 s", "1 s not saved yet, 7 s of 13 s"));
    assert!(equal("  NAME    SIZE", "  NAME  SIZE"));
    assert!(equal("opid: 6b0e51e0f32df238caf81535", "opid: 6b0e51e0f32df238caf81536"));
    assert!(equal("v2.15.0 (pbmbox 0.1.0) ok", "v2.15.0 (pbmbox 0.2.0) ok"));
    assert!(equal("about 1m2s left", "about 55s left"));
    assert!(equal("0 % after 24 s", "1 % after 2 min") && equal("it is 1m2s old", "it is 5 s old"));
    assert!(equal("(1796102303,5) to (1796102303,45)", "(1796102305,10) to (1796102306,1)"));
    for (a, b) in
        [("3 documents", "4 documents"), ("done", "error"), ("exit 4", "exit 2"), ("rs0", "rs1"), ("12 ok", "11 ok")]
    {
        assert!(!equal(a, b), "{a} and {b}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches_shown(&lines("a\n...\nd"), &lines("a\nb\nc\nd")));
    assert!(matches_shown(&lines("a\n..."), &lines("a")));
    assert!(!matches_shown(&lines("a\n...\nd"), &lines("a\nb\nc")));
    assert!(!matches_shown(&lines("a"), &lines("a\nb")));
    assert_eq!(
        find_times("of '2026-03-01T10:20:30Z' at 2026-03-01T10:20:31."),
        ["2026-03-01T10:20:30Z", "2026-03-01T10:20:31"]
    );
}
