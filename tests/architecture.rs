//! What ARCHITECTURE.md says of the code, held against the code: who may use whom, who may name Pingora
//! and Redis, how large files and functions are, what the map shows, and where the documents' links go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Whom each module of the crate may name. `app` sees everything and is not listed; nobody names it
/// but `main` and itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("settings", &[]),
    ("launch", &["model"]),
    ("config", &["launch", "model", "settings", "store"]),
    ("logging", &["config"]),
    ("cli", &["config", "model"]),
    ("events", &["model"]),
    ("metrics", &["config", "logging", "model", "tunnel"]),
    ("store", &["model"]),
    ("selection", &["config", "model"]),
    ("session", &["admission", "model", "store", "tunnel"]),
    ("admission", &["config", "model"]),
    ("tunnel", &["config", "model"]),
    (
        "worker",
        &["config", "launch", "metrics", "model", "store", "tunnel"],
    ),
    (
        "fleet",
        &[
            "admission",
            "config",
            "events",
            "launch",
            "metrics",
            "model",
            "selection",
            "session",
            "store",
            "tunnel",
            "worker",
        ],
    ),
    ("kubernetes", &["fleet", "model"]),
    (
        "proxy",
        &[
            "admission",
            "config",
            "events",
            "fleet",
            "launch",
            "metrics",
            "model",
            "session",
            "store",
            "tunnel",
        ],
    ),
    (
        "admin",
        &[
            "admission",
            "events",
            "fleet",
            "metrics",
            "model",
            "proxy",
            "session",
            "store",
            "tunnel",
        ],
    ),
];

/// Words that say when a comment was written, or what the code was then. The code of today has neither.
const DATED: &[&str] = &[
    "no longer",
    "any more",
    "anymore",
    "by now",
    "from now on",
    "right now",
    "formerly",
    "previously",
    "nowadays",
    "instead of",
];

/// Names that say nothing of what is done, for functions and types alike.
const SAYS_NOTHING: &[&str] = &[
    "tell", "ask", "told", "untold", "get", "stand", "bury", "rumour", "strike", "Manager",
    "Helper", "Util", "Office", "Bell", "Stranger", "Nameless",
];

/// Files longer than a screen can be, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions longer than a screen, each with the reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("app/operate.rs status_table", "columns of a table"),
    ("metrics/mod.rs new", "one line or two a metric"),
    ("proxy/refusal/table.rs response", "one arm a refusal"),
];

const MOST_LINES_OF_A_FILE: usize = 400;
/// Of the folder that declares the configuration, comments and all, its tests aside.
const MOST_LINES_OF_CONFIG: usize = 2400;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} files were found");
    found
}

/// A source file of the library: its path below `src`, and its text without tests.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    files(&src, "rs")
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&src)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let text = fs::read_to_string(&path).unwrap();
            // Tests that stand in the file itself are at its end.
            let tests = text
                .match_indices("\n#[cfg(test)]\nmod ")
                .find(|(at, mark)| {
                    let declared = text[at + mark.len()..].lines().next().unwrap();
                    declared.ends_with('{')
                });
            let production = tests.map_or(&*text, |(at, _)| &text[..at]);
            (name, production.to_owned())
        })
        .filter(|(name, _)| !name.contains("tests"))
        .collect()
}

/// The module of the crate that a file belongs to.
fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Lines without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// Modules that a text names as `crate::module`, groups (`use crate::{a, b}`) aside: rustfmt's style
/// here writes one `use` a module.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code(text) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            found.insert(name);
        }
    }
    found
}

#[test]
fn modules_use_only_whom_they_may() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let modules: BTreeSet<String> = sources()
        .iter()
        .map(|(name, _)| module(name).to_owned())
        .collect();
    for (name, text) in sources() {
        let its = used.entry(module(&name).to_owned()).or_default();
        its.extend(named(&text).into_iter().filter(|it| modules.contains(it)));
    }
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, used) in &used {
        if ["app", "main", "lib"].contains(&module.as_str()) {
            continue;
        }
        let may = allowed.get(module.as_str()).copied().unwrap_or_default();
        let others = used.iter().filter(|other| *other != module);
        for other in others.filter(|other| !may.contains(&other.as_str())) {
            wrong.push(format!("{module} uses {other}"));
        }
        for idle in may.iter().filter(|other| !used.contains(**other)) {
            wrong.push(format!("{module} may use {idle} and does not"));
        }
    }
    assert_eq!(wrong, [""; 0], "MAY_USE says who may use whom");
}

#[test]
fn arrows_point_one_way() {
    let arrows: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let reaches = |from: &str, to: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            let used = arrows.get(module).copied().unwrap_or_default();
            next.extend(used.iter().filter(|it| seen.insert(**it)));
        }
        seen.contains(to)
    };
    let mut cycles = Vec::new();
    for (module, used) in MAY_USE {
        let back = used.iter().filter(|other| reaches(other, module));
        cycles.extend(back.map(|other| (*module, *other)));
    }
    assert_eq!(cycles, [], "modules that name each other");
}

#[test]
fn a_comment_reads_the_same_in_a_year() {
    let mut dated = Vec::new();
    let rust = ["src", "tests", "benches"].map(|folder| files(&root().join(folder), "rs"));
    let scripts = files(&root().join("src"), "lua");
    for path in rust.into_iter().flatten().chain(scripts) {
        let text = fs::read_to_string(&path).unwrap();
        let marks: &[&str] = match path.extension().is_some_and(|it| it == "lua") {
            true => &["-- "],
            false => &["// ", "//! ", "/// "],
        };
        for line in text.lines() {
            let mut comments = marks.iter().filter_map(|mark| line.split_once(mark));
            let dates = |(code, comment): (&str, &str)| {
                // An address has the same two strokes.
                !code.ends_with(':') && DATED.iter().any(|word| comment.contains(word))
            };
            if comments.any(dates) {
                dated.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert_eq!(dated, [""; 0]);
}

/// A line of documentation before each public function, type and constant. Fields and variants have one where
/// their name does not say it all. The command line's are its help texts, which `cli.rs` writes where they are
/// shown.
#[test]
fn what_is_public_says_what_it_is() {
    let mut silent = Vec::new();
    for (name, text) in sources() {
        let mut documented = false;
        for line in text.lines().map(str::trim_start) {
            let item = line.strip_prefix("pub ").map(|rest| {
                let qualifiers = ["const fn ", "async fn ", "unsafe fn "];
                let is_fn = qualifiers.iter().any(|it| rest.starts_with(it));
                let words = [
                    "fn ", "struct ", "enum ", "trait ", "const ", "static ", "type ",
                ];
                is_fn || words.iter().any(|word| rest.starts_with(word))
            });
            let of_a_macro = line.contains('$');
            if item == Some(true) && !documented && !of_a_macro && name != "cli.rs" {
                silent.push(format!("{name}: {line}"));
            }
            // Attributes stand between an item and its documentation.
            documented = line.starts_with("///") || (documented && line.starts_with("#["));
        }
    }
    assert_eq!(silent, [""; 0]);
}

#[test]
fn the_configuration_is_declared_in_few_lines() {
    let lines: usize = sources()
        .iter()
        .filter(|(name, _)| name.starts_with("config/"))
        .map(|(_, text)| text.lines().count())
        .sum();
    assert!((1000..=MOST_LINES_OF_CONFIG).contains(&lines), "{lines}");
}

#[test]
fn what_is_pure_is_handed_its_time_and_waits_for_nothing() {
    let mut pure = 0;
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let says_so = |line: &str| line.starts_with("//!") && line.contains("Pure");
        if !text.lines().any(says_so) {
            continue;
        }
        pure += 1;
        for line in code(&text) {
            let impure = [
                "::now()",
                ".await",
                "async fn",
                "tokio::spawn",
                "fs::",
                "net::Tcp",
            ];
            if impure.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{name}: {}", line.trim()));
            }
        }
    }
    assert!(pure > 10, "only {pure} files say that they are pure");
    assert_eq!(wrong, [""; 0], "its first lines say that it is pure");
}

#[test]
fn names_say_what_is_done() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for line in code(&text) {
            for keyword in ["fn ", "struct ", "enum ", "trait "] {
                let Some((before, rest)) = line.split_once(keyword) else {
                    continue;
                };
                let defined: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let begins = before.trim().is_empty() || before.trim_start().starts_with("pub");
                if begins && SAYS_NOTHING.contains(&defined.as_str()) {
                    wrong.push(format!("{name}: {keyword}{defined}"));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0], "docs/glossary.md has the words");
}

#[test]
fn only_a_few_name_pingora_and_redis() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        // The store asks Pingora's TLS for the provider that all of the process uses.
        let pingora = [
            "proxy",
            "admin",
            "selection",
            "fleet",
            "app",
            "tunnel",
            "store",
        ];
        for line in code(&text) {
            let names = |library: &str| {
                line.contains(&format!("{library}::")) && !line.contains(&format!("::{library}::"))
            };
            if (names("pingora") || names("pingora_proxy") || names("pingora_load_balancing"))
                && !pingora.contains(&module(&name))
            {
                wrong.push(format!("{name}: {line}"));
            }
            if names("redis") && !name.starts_with("store/redis") && !line.contains("store::redis")
            {
                wrong.push(format!("{name}: {line}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn files_are_not_longer_than_one_reads() {
    let long: Vec<(String, usize)> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(name, lines)| {
            let excepted = LONG_FILES.iter().any(|(file, _)| file == name);
            *lines > MOST_LINES_OF_A_FILE && !excepted
        })
        .collect();
    assert_eq!(long, []);
    for (file, reason) in LONG_FILES {
        let there = sources().iter().any(|(name, _)| name == file);
        assert!(there, "{file} ({reason}) is an exception that is not there");
    }
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_head = [
                "fn ",
                "pub fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) fn ",
                "pub(super) async fn ",
                "pub(crate) fn ",
            ]
            .iter()
            .any(|start| head.starts_with(start));
            if is_head && begun.is_none() && !head.ends_with(';') {
                let after = head.split_once("fn ").map_or("", |(_, after)| after);
                let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
                let name: String = after.chars().take_while(is_name).collect();
                begun = Some((number, indent, name));
            } else if let Some((start, outer, function)) = &begun
                && indent == *outer
                && (head == "}" || head.ends_with(");") || head.ends_with(';'))
            {
                let lines = number - start + 1;
                let place = format!("{name} {function}");
                let excepted = LONG_FUNCTIONS.iter().any(|(known, _)| *known == place);
                if lines > MOST_LINES_OF_A_FUNCTION && !excepted {
                    long.push(format!("{place}: {lines}"));
                }
                begun = None;
            }
        }
    }
    assert_eq!(long, [""; 0]);
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(silent, [""; 0]);
}

#[test]
fn the_map_shows_every_folder() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let missing: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|module| !lib.contains(&format!("[`{module}`]")))
        .map(str::to_owned)
        .collect();
    assert_eq!(missing, [""; 0], "src/lib.rs is the map");
}

/// A folder's first lines that list its files list all of them.
#[test]
fn a_folders_list_of_files_is_whole() {
    let mut missing = Vec::new();
    let mut lists = 0;
    for (name, text) in sources() {
        let (head, rest): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("//!"));
        let head = head.join("\n").to_lowercase().replace('_', "");
        let words: BTreeSet<&str> = head.split(|c: char| !c.is_alphanumeric()).collect();
        let files: Vec<&str> = rest
            .iter()
            .filter(|line| !line.starts_with([' ', '/', '#']))
            .filter_map(|line| line.strip_suffix(';')?.split_once("mod "))
            .map(|(_, file)| file)
            .filter(|file| *file != "tests")
            .collect();
        let unlisted = |file: &&&str| !words.contains(file.replace('_', "").as_str());
        let unlisted: Vec<&&str> = files.iter().filter(unlisted).collect();
        if files.len() >= 3 && unlisted.len() * 2 < files.len() {
            lists += 1;
            missing.extend(unlisted.iter().map(|file| format!("{name}: {file}")));
        }
    }
    assert!(lists > 5, "only {lists} folders list their files");
    assert_eq!(missing, [""; 0], "a folder's mod.rs says what is in it");
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut documents = files(&root().join("docs"), "md");
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        documents.push(root().join(name));
    }
    let mut broken = Vec::new();
    let mut links = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            if target.contains("://") || target.starts_with("mailto:") || file.is_empty() {
                continue;
            }
            links += 1;
            if !document.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(links > 0, "no link was found");
    assert_eq!(broken, [""; 0]);
}
