//! What can be typed, and what it sets.

use super::*;
use crate::config::KEYS;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &str) -> Command {
    Cli::try_parse_from(line.split(' ')).unwrap().command
}

#[test]
fn the_definition_is_sound_and_every_command_takes_a_configuration() {
    Cli::command().debug_assert();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let argument = command.get_arguments().find(|a| a.get_id() == "config");
        let argument = argument.unwrap_or_else(|| panic!("{name} has no --config"));
        assert_eq!(argument.get_short(), Some('c'), "{name}");
        assert_eq!(argument.get_long(), Some("config"), "{name}");
        assert!(command.get_about().is_some(), "{name}");
    }
}

#[test]
fn flags_name_keys_and_themselves() {
    let lines = [
        "playhouse up --listen 127.0.0.1:1 --admin-listen 127.0.0.1:2 --browser firefox \
         --max-concurrent-sessions 3 --max-lifetime-sessions 4 --log-level debug \
         --log-format json",
        "playhouse proxy --listen 127.0.0.1:1 --store redis://redis --log-format text",
        "playhouse worker --store redis://redis --browser webkit --port 0 --hostname me",
    ];
    for line in lines {
        let command = parse(&line.split_whitespace().collect::<Vec<_>>().join(" "));
        let sources = command.sources(Environment::default());
        assert!(!sources.flags.0.is_empty());
        for flag in &sources.flags.0 {
            assert!(KEYS.find(flag.key).is_some(), "{}", flag.key);
            assert!(line.contains(&format!("{} {}", flag.name, flag.value)));
        }
        let loaded = sources.load().unwrap();
        for flag in &sources.flags.0 {
            let origin = loaded.origin(flag.key).unwrap().to_string();
            assert_eq!(origin, flag.name);
        }
    }
}

#[test]
fn up_has_two_workers_on_loopback() {
    let Command::Up(up) = parse("playhouse up") else {
        panic!("another command");
    };
    assert_eq!(up.workers, 2);
    let sources = Command::Up(up).sources(Environment::default());
    assert!(sources.load().unwrap().config.listen.ip().is_loopback());
}

#[test]
fn the_file_is_a_flag_or_a_variable() {
    let environment = || [("PLAYHOUSE_CONFIG", "a.yaml")].into_iter().collect();
    let file = |line| parse(line).sources(environment()).file;
    assert_eq!(file("playhouse proxy"), Some("a.yaml".into()));
    assert_eq!(file("playhouse check -c b.yaml"), Some("b.yaml".into()));
    assert_eq!(
        parse("playhouse up").sources(Environment::default()).file,
        None
    );
}

#[test]
fn what_makes_no_sense_is_usage() {
    for (line, kind) in [
        (
            "playhouse",
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ),
        ("playhouse fly", ErrorKind::InvalidSubcommand),
        ("playhouse up --workers many", ErrorKind::ValueValidation),
        ("playhouse kill", ErrorKind::MissingRequiredArgument),
        (
            "playhouse status --json --watch",
            ErrorKind::ArgumentConflict,
        ),
        ("playhouse --version", ErrorKind::DisplayVersion),
        ("playhouse drain --help", ErrorKind::DisplayHelp),
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}");
        let asked = matches!(kind, ErrorKind::DisplayVersion | ErrorKind::DisplayHelp);
        assert_eq!(error.exit_code(), if asked { 0 } else { 2 }, "{line}");
    }
}
