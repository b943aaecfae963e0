//! Completions for shells and pages for `man`, made of a table of clap's by clap's own libraries. These write
//! flags with two dashes; what they make is turned to the one dash of Go's flags, which is how help shows them.
//!
//! - I1: no flag is left out and none is added: what a shell offers is what [`crate::parse`] takes.

use std::io;

use clap::{Arg, ArgAction, Command, ValueEnum};
use clap_complete::Shell as Generator;
use clap_mangen::Man;

/// A shell that completions can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash, from 4 on.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell, from 3.4 on.
    Fish,
}

/// A page for `man`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What its file is called: `diskstore-status.1`.
    pub file: String,
    /// Its text, in roff.
    pub text: String,
}

/// What a shell has to read to complete the command line of this table's program.
pub fn completions(table: Command, shell: Shell) -> String {
    let (mut table, mut bytes) = (plain(table), Vec::new());
    let name = table.get_name().to_owned();
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    clap_complete::generate(generator, &mut table, name, &mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let names = names(&table);
    match shell {
        Shell::Bash => with_one_dash(&text, "--", "-", &names),
        // -s would take -id for -i and -d.
        Shell::Zsh => with_one_dash(&text, "--", "-", &names)
            .replace("_arguments_options=(-s -S -C)", "_arguments_options=(-S -C)")
            .replace("_arguments_options=(-s -C)", "_arguments_options=(-C)"),
        // Its own reader of flags takes -id for -i and -d, so that is shown two dashes.
        Shell::Fish => with_one_dash(&text, " -l ", " -o ", &names).replace(
            "-- $cmd 2>/dev/null",
            "-- (string replace -r -- '^-([^-])' '--$1' $cmd) 2>/dev/null",
        ),
    }
}

/// A page for the program, and one for each of its sub-commands.
///
/// # Errors
/// Those of the library, which writes to memory and so has none.
pub fn pages(table: Command) -> io::Result<Vec<Page>> {
    let mut table = plain(table);
    table.build();
    let names = names(&table);
    let mut pages = Vec::new();
    for command in std::iter::once(&table).chain(table.get_subcommands()) {
        let (page, mut bytes) = (Man::new(command.clone()), Vec::new());
        page.render(&mut bytes)?;
        let text = with_one_dash(&String::from_utf8_lossy(&bytes), "\\-\\-", "\\-", &names);
        pages.push(Page { file: page.get_filename(), text });
    }
    Ok(pages)
}

/// The table as libraries have to see it that know nothing of Go's flags: `-h` is another name of `-help`, `-V` is
/// none, and a boolean takes no word behind it.
fn plain(table: Command) -> Command {
    let has_version = table.get_version().is_some();
    let table = table.disable_help_flag(true).disable_version_flag(true);
    let mut table = table.disable_help_subcommand(true);
    let commands: Vec<String> =
        table.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for command in commands {
        table = table.mut_subcommand(command, plain);
    }
    table = table.mut_args(|flag| match flag.get_long() {
        Some(name) if flag.is_require_equals_set() => {
            let help = flag.get_help().cloned().unwrap_or_default();
            Arg::new(flag.get_id().clone())
                .long(name.to_owned())
                .help(help)
                .action(ArgAction::SetTrue)
        }
        _ => flag,
    });
    let help = Arg::new("help").long("help").action(ArgAction::Help).help("Prints help");
    let version = Arg::new("version").long("version").action(ArgAction::Version);
    let table = table.arg(help);
    if has_version { table.arg(version.help("Prints the version")) } else { table }
}

/// The names of all flags, of the program and of its sub-commands.
fn names(table: &Command) -> Vec<String> {
    let scopes = std::iter::once(table).chain(table.get_subcommands());
    let flags = scopes.flat_map(Command::get_arguments);
    flags.filter_map(|flag| flag.get_long()).map(str::to_owned).collect()
}

/// Text in which a flag's name has `one` before it wherever it had `two`.
fn with_one_dash(text: &str, two: &str, one: &str, names: &[String]) -> String {
    let mut rest = text;
    let mut changed = String::with_capacity(text.len());
    while let Some(at) = rest.find(two) {
        let (before, behind) = (&rest[..at], &rest[at + two.len()..]);
        // roff writes a dash as \-.
        let is_flag = names.iter().any(|name| {
            behind.starts_with(name.as_str()) || behind.starts_with(&name.replace('-', "\\-"))
        });
        changed.push_str(before);
        changed.push_str(if is_flag { one } else { two });
        rest = behind;
    }
    changed + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name).value_name("X").help("Says it");
        let boolean = Arg::new("sure")
            .long("sure")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
        let list = Command::new("list").about("Lists").arg(flag("addr")).arg(boolean.clone());
        Command::new("prog")
            .version("1")
            .arg(flag("key-size"))
            .arg(flag("key"))
            .arg(boolean)
            .subcommand(list)
    }

    #[test]
    fn every_shell_is_told_of_flags_with_one_dash() {
        for shell in [Shell::Bash, Shell::Zsh] {
            let text = completions(table(), shell);
            for name in ["-key-size", "-key", "-addr", "-sure", "-help", "-version"] {
                assert!(text.contains(name), "{name}: {text}");
                assert!(!text.contains(&format!("-{name}")), "{name}: {text}");
            }
        }
        let text = completions(table(), Shell::Fish);
        for name in ["key-size", "key", "addr", "sure", "help", "version"] {
            assert!(text.contains(&format!(" -o {name} ")), "{name}: {text}");
        }
        let mut flags = text.lines().filter(|line| line.starts_with("complete "));
        assert!(flags.all(|line| !line.contains(" -l ")), "{text}");
        assert!(text.contains("string replace -r"), "{text}");
        let text = completions(table(), Shell::Zsh);
        assert!(!text.contains("(-s "), "{text}");
    }

    /// What bash offers behind these words.
    fn offered(words: &[&str]) -> String {
        let script = completions(table(), Shell::Bash);
        let (last, list) = (words.len() - 1, words.join(" "));
        let (current, before) = (words[last], words[last - 1]);
        let asked = format!(
            "{script}\nCOMP_WORDS=({list}) COMP_CWORD={last}\n_prog prog {current} {before}\n\
             echo \"${{COMPREPLY[@]}}\"\n"
        );
        let output = std::process::Command::new("bash").args(["--norc", "-c", &asked]).output();
        let output = output.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[test]
    fn bash_completes_what_it_is_told() {
        assert_eq!(offered(&["prog", "-ke"]), "-key-size -key");
        assert_eq!(offered(&["prog", "-key", "a", "-su"]), "-sure");
        assert_eq!(offered(&["prog", "li"]), "list");
        assert_eq!(offered(&["prog", "list", "-a"]), "-addr");
        assert_eq!(offered(&["prog", "list", "--a"]), "");
    }

    #[test]
    fn a_boolean_takes_no_word_behind_it() {
        let text = completions(table(), Shell::Bash);
        let cases = |name: &str| text.matches(&format!("                {name})\n")).count();
        assert_eq!((cases("-key"), cases("-sure")), (1, 0), "{text}");
    }

    #[test]
    fn there_is_a_page_for_the_program_and_each_command() {
        let pages = pages(table()).unwrap();
        let files: Vec<_> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files, ["prog.1", "prog-list.1"]);
        let text = &pages[0].text;
        assert!(text.contains("\\fB\\-key\\-size\\fR") && !text.contains("\\-\\-"), "{text}");
        assert!(pages[1].text.contains("\\fB\\-addr\\fR"), "{}", pages[1].text);
    }
}
