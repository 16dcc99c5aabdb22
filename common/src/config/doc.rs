//! Writes what an operator reads about the configuration, all of it from the table of keys: the file
//! that each server is shipped with, and `CONFIGURATION.md`.
//!
//! The files in `etc/` are what these functions give; a test says so. After a change of the table:
//! `UPDATE_DOCS=1 cargo test -p tnv-common config::doc`.

use std::fmt::Write;

use super::keys::{ALL, AnyKey};
use super::{DIRECTORIES, Part};

/// Comments are wrapped at this column.
const COLUMNS: usize = 96;

/// The file that a server is shipped with. It runs as it is.
pub fn shipped(part: Part) -> String {
    let mut text = String::new();
    comment(&mut text, "", &format!("The configuration of {part}. {}", part.summary()));
    comment(&mut text, "", "");
    comment(
        &mut text,
        "",
        "What is set here are the defaults, so every line may be left out, but where its comment says what \
         that means. CONFIGURATION.md beside this file \
         explains the form. Relative paths are relative to the directory that the server is started in.",
    );
    let _ = writeln!(text, "\nservice {} {{", part.service());
    for key in ALL.iter().filter(|key| key.parts().contains(&part)) {
        comment(&mut text, "    ", &key.doc());
        comment(&mut text, "    ", &format!("Form: {}.", key.form()));
        let name = key.name();
        let _ = match (key.example(), key.shipped()) {
            (Some(example), _) => writeln!(text, "    # {name} = {example}\n"),
            (None, Some(shipped)) => writeln!(text, "    {name} = {shipped}\n"),
            (None, None) => writeln!(text, "    {name} = {}\n", key.default(part)),
        };
    }
    text.truncate(text.trim_end().len());
    text.push_str("\n}\n");
    text
}

/// Every key with its servers, its form, its default and its meaning.
pub fn manual() -> String {
    let mut text = String::from(INTRODUCTION);
    text.push_str("| server | file | default port |\n|---|---|---|\n");
    for part in Part::ALL {
        let _ = writeln!(text, "| {part} | {} | {} |", part.file_name(), part.default_port());
    }
    let _ = write!(text, "\n{FORM}");
    let _ = writeln!(
        text,
        "\nWithout `-c FILE` a server takes the first file of its name in {}.\n",
        DIRECTORIES.map(|directory| format!("`{directory}`")).join(", ")
    );
    text.push_str("## The keys\n\n| key | servers | default |\n|---|---|---|\n");
    for key in ALL {
        let _ = writeln!(text, "| [{0}](#{0}) | {1} | {2} |", key.name(), servers(*key), default(*key));
    }
    for key in ALL {
        let _ = writeln!(
            text,
            "\n### {}\n\n{}\n\n- Servers: {}\n- Form: {}\n- Default: {}",
            key.name(),
            key.doc(),
            servers(*key),
            key.form(),
            default(*key),
        );
        if let Some(shipped) = key.shipped() {
            let _ = writeln!(text, "- In the shipped files: `{shipped}`");
        }
    }
    let _ = write!(text, "\n{LEGACY}");
    text
}

const INTRODUCTION: &str = "\
# The configuration of TNV's servers

Generated from the table of keys in `common/src/config/keys.rs`; do not edit. After a change there:
`UPDATE_DOCS=1 cargo test -p tnv-common config::doc`.

`tnv-X --check` reads a server's file, opens what it refers to, and tells every error as
`FILE:LINE: what, got what, want what`.

";

const FORM: &str = "\
## The form of a file

```
service NAME {
    # a comment
    key = value
}
```

- One service block in a file, under any name; its `{` may stand on the next line.
- One `key = value` a line, each key at most once. Blanks around key and value do not count; an empty
  value means the default.
- Lines that begin with `#` are comments. A `#` inside a value is part of it.
- Items of a list are separated by `;`. Times are in seconds. Sizes take K, M, G (of 1024) or %.
- Relative paths are relative to the directory that the server is started in.
- An unknown key is an error.
- UTF-8, with a byte order mark or without, at most 1 MiB in all and 16 KiB a line. Lines end in a line feed,
  with a carriage return before it or without.
";

const LEGACY: &str = "\
## Keys of existing files

The `redis_*`, `ioctl_*`, `master_*`, `mempool_*` and `use_redis_session` keys of existing files are accepted
everywhere; some of them are the acl library's. Each costs a line in the log, and one of `--check`, that says
what replaces it; only `redis_key_timeout` sets something.
";

/// The servers of a key, by their binaries.
fn servers(key: &dyn AnyKey) -> String {
    match key.parts() {
        parts if parts.len() == Part::ALL.len() => "all".to_owned(),
        parts => parts.iter().map(|part| part.binary()).collect::<Vec<_>>().join(", "),
    }
}

/// The default of a key, which may be another one for each server.
fn default(key: &dyn AnyKey) -> String {
    let mut defaults: Vec<String> = key.parts().iter().map(|part| key.default(*part)).collect();
    defaults.dedup();
    match &defaults[..] {
        [none] if none.is_empty() => "not set".to_owned(),
        [one] => format!("`{one}`"),
        _ => {
            let named = key.parts().iter().map(|part| format!("`{}` ({part})", key.default(*part)));
            named.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Writes a paragraph as comment lines.
fn comment(text: &mut String, indent: &str, paragraph: &str) {
    let mut line = format!("{indent}#");
    for word in paragraph.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(text, "{line}");
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn the_files_in_etc_are_generated_from_the_table_of_keys() {
        let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc");
        let mut files = Part::ALL.map(|part| (part.file_name(), shipped(part))).to_vec();
        files.push(("CONFIGURATION.md", manual()));
        for (name, text) in files {
            let path = etc.join(name);
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == text,
                "etc/{name} is not what the table of keys says: UPDATE_DOCS=1 cargo test -p tnv-common config::doc"
            );
        }
    }

    #[test]
    fn a_shipped_file_says_what_an_empty_one_means() {
        for part in Part::ALL {
            let file = Path::new(part.file_name());
            let config = Config::from_text(part, file, shipped(part).as_bytes())
                .map_err(|errors| errors[0].to_string());
            let config = config.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(config.notices(), Vec::<String>::new());
            for key in ALL.iter().filter(|key| key.parts().contains(&part)) {
                assert_eq!(config.is_set(*key), key.example().is_none(), "{}", key.name());
            }
            assert_eq!(config.common().unwrap().bind.port(), part.default_port());
        }
    }
}
