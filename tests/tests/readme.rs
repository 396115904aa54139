//! What the manuals say exists: verbs and options of the programs, and the tests that a table names.

use mote_tests::programs::{root, succeed};
use std::collections::BTreeMap;
use std::path::Path;

/// Pages for users, from the repository's root.
const PAGES: [&str; 4] = ["README.md", "firmware/README.md", "host-train/README.md", "host-train/dataset/README.md"];

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The help of `program` and of its verbs, each asked for once.
#[derive(Default)]
struct Helps(BTreeMap<String, String>);

impl Helps {
    fn of(&mut self, program: &str, verbs: &[&str]) -> &str {
        let key = [&[program], verbs].concat().join(" ");
        self.0.entry(key).or_insert_with(|| succeed(program, &[verbs, &["--help"]].concat()))
    }

    /// Whether the command lists `verb`.
    fn lists(&mut self, program: &str, verbs: &[&str], verb: &str) -> bool {
        let listed = |line: &str| line.split_whitespace().next() == Some(verb);
        let help = self.of(program, verbs);
        help.split_once("Commands:").is_some_and(|(_, commands)| commands.lines().any(listed))
    }

    /// What a command line's words name: the program and the verbs of which it has help.
    fn find<'a>(&mut self, words: &[&'a str]) -> Option<(&'static str, Vec<&'a str>)> {
        let verb = words.first()?;
        if !self.lists("xtask", &[], verb) {
            return None;
        }
        // What xtask passes on has its help there.
        let (program, mut verbs) = match *verb {
            "data" => ("mote-data", Vec::new()),
            verb if self.lists("mote-train", &[], verb) => ("mote-train", vec![verb]),
            verb => ("xtask", vec![verb]),
        };
        // A verb may stand behind options of the one before it.
        for word in words[1..].iter().filter(|word| !word.starts_with('-')) {
            if self.lists(program, &verbs, word) {
                verbs.push(word);
            }
        }
        Some((program, verbs))
    }
}

/// `--option` of `--option=value` and of `--option,`; none for other words.
fn option(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--")?;
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len());
    (end > 0).then(|| &word[..2 + end])
}

/// Whether a help page explains an option.
fn explains(help: &str, option: &str) -> bool {
    help.split_whitespace().any(|word| self::option(word) == Some(option))
}

/// The text of a page outside and inside of its blocks of code.
fn prose_and_code(page: &str) -> (String, String) {
    let (mut prose, mut code) = (String::new(), String::new());
    for (index, part) in page.split("```").enumerate() {
        let into = if index % 2 == 0 { &mut prose } else { &mut code };
        into.push_str(part);
        into.push('\n');
    }
    (prose, code)
}

#[test]
fn every_command_of_the_manuals_exists_with_its_options() {
    let mut helps = Helps::default();
    let mut commands = 0;
    for name in PAGES {
        let (_, code) = prose_and_code(&page(name));
        // A command may go on after a backslash.
        for line in code.replace("\\\n", " ").lines() {
            let Some(command) = line.trim().strip_prefix("cargo xtask ") else { continue };
            let command = command.split('#').next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().collect();
            let (program, verbs) = helps.find(&words).unwrap_or_else(|| panic!("{name}: `{line}`: no such verb"));
            let help: String = (0..=verbs.len()).map(|outer| helps.of(program, &verbs[..outer]).to_owned()).collect();
            for option in words.iter().filter_map(|word| option(word)) {
                assert!(explains(&help, option), "{name}: `{line}`: {program} {verbs:?} has no {option}");
            }
            commands += 1;
        }
    }
    assert!(commands > 10, "{commands} commands found");
}

#[test]
fn every_option_in_the_prose_of_the_manuals_exists() {
    let mut helps = Helps::default();
    let mut all = String::new();
    for program in ["mote-train", "mote-data", "xtask"] {
        let top = helps.of(program, &[]).to_owned();
        let (_, verbs) = top.split_once("Commands:").expect("verbs");
        for verb in
            verbs.lines().filter(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next())
        {
            let passed_on = program == "xtask" && (verb == "data" || helps.lists("mote-train", &[], verb));
            if verb == "help" || passed_on {
                continue;
            }
            all += helps.of(program, &[verb]);
        }
    }
    for name in PAGES {
        let (prose, _) = prose_and_code(&page(name));
        let spans = prose.split('`').skip(1).step_by(2);
        for option in spans.flat_map(str::split_whitespace).filter_map(option) {
            assert!(explains(&all, option), "{name}: no program has {option}");
        }
    }
}

/// Every field of a recipe, as `--print-preset` gives it, stands between backticks.
#[test]
fn every_field_of_a_recipe_is_in_the_manual() {
    let (prose, _) = prose_and_code(&page("host-train/README.md"));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let explained: Vec<&str> =
        prose.split('`').skip(1).step_by(2).flat_map(|span| span.split(|c| !is_name(c))).collect();
    let mut fields = 0;
    for preset in ["demo", "toy"] {
        let recipe = succeed("mote-train", &["train", "--print-preset", "--preset", preset]);
        for part in recipe.split(['\n', '{', ',']) {
            let Some((name, _)) = part.split_once(" = ") else { continue };
            let name = name.trim();
            assert!(explained.contains(&name), "host-train/README.md: nothing on the field {name} of {preset}");
            fields += 1;
        }
    }
    assert!(fields > 60, "{fields} fields found");
}

/// Adds the text of all Rust sources below `folder`.
fn read_sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            read_sources(&path, text);
        } else if name.ends_with(".rs") {
            *text += &std::fs::read_to_string(&path).expect("a source");
        }
    }
}

/// In the table of features the last column names tests.
#[test]
fn every_test_that_the_table_of_features_names_exists() {
    let mut sources = String::new();
    for folder in ["core/src", "host-train", "tests"] {
        read_sources(&root().join(folder), &mut sources);
    }
    let page = page("host-train/README.md");
    let (_, table) = page.split_once("## Beside the others").expect("the table's heading");
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let (feature, ours, shown) = (cells[0], cells[1], cells[cells.len() - 1]);
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(ours.trim() == "no" || !tests.is_empty(), "{feature}: a feature that no test shows");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{feature}: there is no test {test}");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests named");
}
