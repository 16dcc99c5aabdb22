//! The form of a configuration file: `service NAME { key = value }`, a setting a line, comment
//! lines starting with `#`. Knows nothing of which keys there are.
//!
//! All errors are collected, not only the first. What follows the key on a line that is not
//! understood is never quoted: it may be a password.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{ConfigError, quoted};
use crate::text::shown;
use crate::text::{is_utf16, unmarked};

/// A configuration file is at most this long; real ones have a few KiB.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;

/// A line is at most this long: room for the longest list that makes sense.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// So many errors are reported. A file with more is most likely the wrong file.
pub(super) const ERRORS_MAX: usize = 100;

/// The value of a key, and its line.
pub(super) struct Entry {
    pub line: usize,
    pub value: String,
}

/// What a file says.
pub(super) struct Parsed {
    /// The line of `service`, where a setting would be added.
    pub service_line: usize,
    /// By key.
    pub entries: BTreeMap<String, Entry>,
}

/// Reads the text of a file; `file` is its name, for the errors. What could be read is returned even
/// where there are errors, so that wrong values are found as well.
pub(super) fn parse(file: &Path, text: &[u8]) -> (Parsed, Vec<ConfigError>) {
    let mut parser = Parser::new(file);
    if text.len() > FILE_BYTES_MAX {
        let got = format!("over {FILE_BYTES_MAX} bytes");
        parser.error(1, "file too long", got, "a configuration file");
    } else if is_utf16(text) {
        parser.error(1, "invalid text", "UTF-16", "UTF-8");
    } else {
        parser.text(unmarked(text));
    }
    (Parsed { service_line: parser.service_line, entries: parser.entries }, parser.errors)
}

/// Where in the file the parser stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Before,
    /// After `service NAME`, before its `{`.
    Named,
    Inside,
    After,
}

struct Parser<'a> {
    file: &'a Path,
    place: Place,
    service_line: usize,
    entries: BTreeMap<String, Entry>,
    errors: Vec<ConfigError>,
}

impl<'a> Parser<'a> {
    fn new(file: &'a Path) -> Parser<'a> {
        Parser { file, place: Place::Before, service_line: 1, entries: BTreeMap::new(), errors: Vec::new() }
    }

    fn error(&mut self, line: usize, what: impl Into<String>, got: impl Into<String>, want: &str) {
        self.errors.push(ConfigError::new(self.file, line, what.into(), got.into(), want));
    }

    fn text(&mut self, text: &[u8]) {
        let mut last = 0;
        for line in text.split(|byte| *byte == b'\n') {
            last += 1;
            self.raw_line(last, line);
            if self.errors.len() >= ERRORS_MAX {
                return;
            }
        }
        self.end(last);
    }

    /// Lets only lines of text through, without blanks around them, and without comments.
    fn raw_line(&mut self, number: usize, line: &[u8]) {
        if line.len() > LINE_BYTES_MAX {
            let got = format!("{} bytes", line.len());
            return self.error(number, "line too long", got, &format!("at most {LINE_BYTES_MAX}"));
        }
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return;
        }
        match std::str::from_utf8(line) {
            Err(_) => self.error(number, "invalid text", "bytes that are not UTF-8", "UTF-8"),
            Ok(line) if line.chars().any(|c| c.is_control() && c != '\t') => {
                self.error(number, "invalid text", "control characters", "plain text");
            }
            Ok(line) => self.line(number, line),
        }
    }

    fn line(&mut self, number: usize, line: &str) {
        match self.place {
            Place::Before | Place::After => match service_name(line) {
                Some(rest) => self.service(number, rest),
                None => self.error(
                    number,
                    "text outside the service block",
                    begins(line),
                    "'service NAME {' before the settings and '}' after them",
                ),
            },
            Place::Named => match line.strip_prefix('{') {
                Some(rest) => self.open(number, rest),
                None => {
                    self.error(number, "missing brace", begins(line), "'{' after 'service NAME'");
                    self.place = Place::Inside;
                    self.inside(number, line);
                }
            },
            Place::Inside => self.inside(number, line),
        }
    }

    /// `NAME`, `NAME {`, or the whole block in one line.
    fn service(&mut self, number: usize, rest: &str) {
        if self.place == Place::After {
            self.error(number, "second service block", begins(rest), "one service block in a file");
        } else {
            self.service_line = number;
        }
        self.place = Place::Named;
        let (name, body) = match rest.split_once('{') {
            Some((name, body)) => (name.trim(), Some(body)),
            None => (rest, None),
        };
        if name.is_empty() || !name.bytes().all(is_key_byte) {
            self.error(number, "service name", quoted(name), "ASCII letters, digits and underscores");
        }
        if let Some(body) = body {
            self.open(number, body);
        }
    }

    /// What follows `{` on its line: nothing, or a setting, and then `}` may close the block.
    fn open(&mut self, number: usize, rest: &str) {
        self.place = Place::Inside;
        let (setting, closed) = match rest.trim().strip_suffix('}') {
            Some(setting) => (setting.trim(), true),
            None => (rest.trim(), false),
        };
        if !setting.is_empty() && !setting.starts_with('#') {
            self.inside(number, setting);
        }
        if closed {
            self.place = Place::After;
        }
    }

    fn inside(&mut self, number: usize, line: &str) {
        if line == "}" {
            self.place = Place::After;
            return;
        }
        let Some((key, value)) = line.split_once('=') else {
            let missing = if service_name(line).is_some() { "missing brace" } else { "missing '='" };
            return self.error(number, missing, begins(line), "'key = value', or '}' at the end");
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || !key.bytes().all(is_key_byte) {
            return self.error(number, "invalid key", begins(key), "ASCII letters, digits and underscores");
        }
        if let Some(first) = self.entries.get(key) {
            let what = format!("key '{}' is already set on line {}", shown(key.as_bytes()), first.line);
            return self.error(number, what, "a second value", "each key once");
        }
        self.entries.insert(key.to_owned(), Entry { line: number, value: value.to_owned() });
    }

    fn end(&mut self, last: usize) {
        match self.place {
            Place::Before => self.error(last, "no service block", "none", "'service NAME { key = value }'"),
            Place::Named => {
                self.error(last, "missing brace", "the end of the file", "'{' after 'service NAME'")
            }
            Place::Inside => {
                self.error(last, "missing brace", "the end of the file", "'}' after the settings")
            }
            Place::After => {}
        }
    }
}

/// What follows the word `service`.
fn service_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("service")?;
    rest.starts_with([' ', '\t', '{']).then(|| rest.trim())
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The first word of a line, and nothing after it: the rest may be a secret.
fn begins(line: &str) -> String {
    let end = line.bytes().position(|byte| !is_key_byte(byte)).unwrap_or(line.len());
    match &line[..end] {
        "" => match line.chars().next() {
            Some(first) => format!("a line that begins with {}", quoted(&first.to_string())),
            None => "nothing".to_owned(),
        },
        word => quoted(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> Vec<(usize, String, String)> {
        let (parsed, errors) = parse(Path::new("t.cfg"), text.as_bytes());
        assert_eq!(errors, [], "{text}");
        let mut entries: Vec<_> =
            parsed.entries.into_iter().map(|(key, it)| (it.line, key, it.value)).collect();
        entries.sort();
        entries
    }

    fn bad(text: impl AsRef<[u8]>) -> Vec<String> {
        let (_, errors) = parse(Path::new("t.cfg"), text.as_ref());
        errors.iter().map(ConfigError::to_string).collect()
    }

    fn entry(line: usize, key: &str, value: &str) -> (usize, String, String) {
        (line, key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_file_of_the_existing_form_is_read() {
        let text =
            "# TNV\n\nservice tnv_tracker {\n\t# list\n\ttnv_apps_id = tnvideo; a \n  b=c # d\nempty =\n}\n";
        let want = vec![entry(5, "tnv_apps_id", "tnvideo; a"), entry(6, "b", "c # d"), entry(7, "empty", "")];
        assert_eq!(good(text), want);
        assert_eq!(good(&text.replace('\n', "\r\n")), want, "CRLF");
        assert_eq!(good(&format!("\u{feff}{text}")), want, "a byte order mark");
    }

    #[test]
    fn the_brace_may_stand_on_the_next_line_or_everything_on_one() {
        assert_eq!(good("service x\n\n# why\n{\na = 1\n}"), [entry(5, "a", "1")]);
        assert_eq!(good("service x{\na = 1 = 2\n}"), [entry(2, "a", "1 = 2")]);
        assert_eq!(good("service x { a = b }"), [entry(1, "a", "b")]);
        assert_eq!(good("service x { a = b\nc = d}\n}"), [entry(1, "a", "b"), entry(2, "c", "d}")]);
        assert_eq!(good("service x {}"), []);
    }

    #[test]
    fn every_fault_of_a_file_is_told_with_its_line() {
        let errors = bad("oops\nservice x {\na = 1\nno equals here\na = 2\n = 3\n}\nlate = 1\n");
        assert_eq!(
            errors,
            [
                "t.cfg:1: text outside the service block, got 'oops', want 'service NAME {' before the settings \
                 and '}' after them",
                "t.cfg:4: missing '=', got 'no', want 'key = value', or '}' at the end",
                "t.cfg:5: key 'a' is already set on line 3, got a second value, want each key once",
                "t.cfg:6: invalid key, got nothing, want ASCII letters, digits and underscores",
                "t.cfg:8: text outside the service block, got 'late', want 'service NAME {' before the settings \
                 and '}' after them",
            ]
        );
    }

    #[test]
    fn missing_braces_and_foreign_text_are_faults() {
        assert!(bad("")[0].starts_with("t.cfg:1: no service block"));
        assert!(bad("service x\n")[0].contains("missing brace, got the end of the file, want '{'"));
        assert!(bad("service x {\na = 1\n")[0].contains("missing brace, got the end of the file, want '}'"));
        assert!(bad("service x\na = 1\n}")[0].starts_with("t.cfg:2: missing brace, got 'a'"));
        assert!(bad("service {\n}")[0].starts_with("t.cfg:1: service name, got ''"));
        assert!(bad("service a {\n}\nservice b {\n}")[0].starts_with("t.cfg:3: second service block"));
        assert!(bad("service a {\nservice b {\n}")[0].starts_with("t.cfg:2: missing brace"));
        assert!(
            bad(b"service a {\nk = \xFF\n}")[0].contains("t.cfg:2: invalid text, got bytes that are not")
        );
        assert!(bad("service a {\nk = \x1b[31m\n}")[0].contains("control characters"));
    }

    #[test]
    fn a_password_on_a_broken_line_is_never_quoted() {
        for line in ["mysql_pass hunter2", "mysql_pass:hunter2", "mysql_pass: hunter2 = x", "\"hunter2"] {
            let errors = bad(format!("service x {{\n{line}\n}}"));
            assert!(!errors.concat().contains("hunter2"), "{errors:?}");
        }
    }

    #[test]
    fn files_lines_and_faults_are_bounded() {
        assert!(bad(vec![b'#'; FILE_BYTES_MAX + 1])[0].contains("file too long"));
        assert!(
            bad(format!("service x {{\na = {}\n}}", "b".repeat(LINE_BYTES_MAX)))[0].contains("line too long")
        );
        assert_eq!(bad("x\n".repeat(FILE_BYTES_MAX / 2)).len(), ERRORS_MAX);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        const PIECES: [&[u8]; 14] = [
            b"service",
            b" x",
            b"{",
            b"}",
            b"\n",
            b"\r\n",
            b"=",
            b"#",
            b"a",
            b" ",
            b"\xFF",
            b"\0",
            "ü".as_bytes(),
            b";",
        ];
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..state % 24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                text.extend_from_slice(PIECES[state as usize % PIECES.len()]);
            }
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let _ = parse(Path::new("t.cfg"), &text);
        }
    }
}
