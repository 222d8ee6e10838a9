//! Every setting in every source, by the table: a new row without samples fails here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use clap::Args as _;

use super::{
    fixture::{TempFile, flags, line, load_with, nowhere, samples, with},
    flags::{Agent, Collector, Run},
    value::Shape,
    *,
};

fn load_file(text: &str) -> Result<Settings, ConfigError> {
    load_with::<Run>(&[], Some(&TempFile::new(text).0), &nowhere())
}

/// What `settings` say for `key`, and who said so.
fn shown(settings: &Settings, key: &str) -> (Option<toml::Value>, Source) {
    let (_, shown) = settings.shown().into_iter().find(|(row, _)| row.key == key).unwrap();
    (shown.value, shown.source)
}

fn precedence<K: Kind>() {
    for row in TABLE.iter().filter(|row| row.is_used_by(K::COMMAND)) {
        let ([in_file, in_variable, in_flag], _) = samples(row.key);
        let file = TempFile::new(&line(row, in_file));
        let flag = format!("--{}={in_flag}", row.flag);
        let variable = row.variable();
        let around = with(&[(&variable, in_variable)]);
        let alone = |text: &str| {
            let flag = format!("--{}={text}", row.flag);
            shown(&load_with::<K>(&[&flag], None, &nowhere()).unwrap(), row.key).0
        };

        let nobody = load_with::<K>(&[], None, &nowhere()).unwrap();
        assert_eq!(shown(&nobody, row.key).1, Source::Default, "{}", row.key);

        let steps = [
            (
                load_with::<K>(&[], Some(&file.0), &nowhere()),
                in_file,
                Source::File { path: file.0.clone(), line: 2 },
            ),
            (
                load_with::<K>(&[], Some(&file.0), &around),
                in_variable,
                Source::Environment(variable.clone()),
            ),
            (
                load_with::<K>(&[&flag], Some(&file.0), &around),
                in_flag,
                Source::Flag(format!("--{}", row.flag)),
            ),
        ];
        for (settings, text, source) in steps {
            let (value, from) = shown(&settings.unwrap(), row.key);
            assert_eq!(from, source, "{}", row.key);
            assert_eq!(value, alone(text), "{} from {source}", row.key);
            if row.default.to_string() != text {
                assert_ne!(value, shown(&nobody, row.key).0, "{} from {source}", row.key);
            }
        }
    }
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    precedence::<Run>();
    precedence::<Agent>();
    precedence::<Collector>();
}

#[test]
fn secrets_of_all_sources_are_distinguished() {
    // Above they are all stars.
    let [first, second] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"];
    let file = TempFile::new(&format!("web_token = {first:?}"));
    let around = with(&[("HOTSPAN_WEB_TOKEN", second)]);
    let token = |settings: Settings| settings.web_token.value.clone().unwrap().expose().to_owned();
    assert_eq!(token(load_with::<Run>(&[], Some(&file.0), &nowhere()).unwrap()), first);
    assert_eq!(token(load_with::<Run>(&[], Some(&file.0), &around).unwrap()), second);
}

fn wrong_values<K: Kind>() {
    for row in TABLE.iter().filter(|row| row.is_used_by(K::COMMAND)) {
        let (_, wrong) = samples(row.key);
        let text = if row.shape == Shape::Switch { format!("{wrong:?}") } else { wrong.to_owned() };
        let file = match row.shape {
            Shape::Switch => TempFile::new(&format!("\n{} = {text}\n", row.key)),
            _ => TempFile::new(&line(row, &text)),
        };
        let variable = row.variable();
        let tries = [
            (
                load_with::<K>(&[&format!("--{}={wrong}", row.flag)], None, &nowhere()),
                format!("flag --{}", row.flag),
            ),
            (load_with::<K>(&[], None, &with(&[(&variable, wrong)])), variable),
            (load_with::<K>(&[], Some(&file.0), &nowhere()), format!("{}:2", file.0.display())),
        ];
        for (outcome, by) in tries {
            let message = outcome.expect_err(row.key).to_string();
            let value = if row.secret { "***" } else { wrong };
            for part in [row.key, value, &by, row.allowed] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
            assert!(!row.secret || !message.contains(wrong), "{message:?} tells the secret");
        }
    }
}

#[test]
fn wrong_values_name_key_value_source_and_what_is_allowed() {
    wrong_values::<Run>();
    wrong_values::<Agent>();
    wrong_values::<Collector>();
}

#[test]
fn values_of_another_look_are_wrong() {
    let texts = ["hz = 99.5", "data_dir = 7", "no_web = \"true\"", "web_hosts = \"a\"", "hz = -1"];
    let more =
        ["web_hosts = [\"a,b\"]", "web_hosts = [\"\"]", "web_hosts = [1]", "[collector]\na=1"];
    for text in texts.into_iter().chain(more).chain(["hz = [1]", "log = 2026-01-01"]) {
        let error = load_file(text).expect_err(text);
        assert!(matches!(error, ConfigError::Value { .. }), "{text}: {error}");
    }
    assert_eq!(load_file("hz = 0x10").unwrap().hz.value, 16);
    assert_eq!(load_file("hz = 1_000").unwrap().hz.value, 1000);
    assert_eq!(load_file("hz = \"49\"").unwrap().hz.value, 49);
}

#[test]
fn unknown_keys_are_named_with_their_line_and_the_nearest() {
    let message = |text: &str| load_file(text).unwrap_err().to_string();
    let near = message("hz = 1\n\n# comment\ndata-dir = \"/x\"\nzz = 1\n");
    assert!(near.contains(".toml:4: there is no setting `data-dir`; did you mean `data_dir`?"));
    let far = message("colour = 1");
    assert!(far.ends_with(".toml:1: there is no setting `colour`"), "{far}");
    assert!(message("[server]\nhz = 1").contains("`server`"));
    // The first of two mistakes in the order of the file, not of the alphabet.
    assert!(message("zzz = 1\naaa = 1").contains("`zzz`"));
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for (text, line) in [("hz = 1\nhz = 2\n", 2), ("hz =\n", 1), ("\n\nnot toml\n", 3)] {
        let message = load_file(text).unwrap_err().to_string();
        assert!(message.contains(&format!(".toml:{line}: ")), "{text:?}: {message}");
    }
}

#[test]
fn keys_of_other_commands_are_fine_in_the_file_but_no_flags() {
    let all: String = TABLE.iter().map(|row| line(row, samples(row.key).0[0])).collect();
    let file = TempFile::new(&all);
    load_with::<Run>(&[], Some(&file.0), &nowhere()).unwrap();
    load_with::<Collector>(&[], Some(&file.0), &nowhere()).unwrap();
    let agent = load_with::<Agent>(&[], Some(&file.0), &nowhere()).unwrap();
    assert!(!agent.print().contains("web"), "only what an agent has: {}", agent.print());

    let command = Flags::<Run>::augment_args(clap::Command::new("test").no_binary_name(true));
    assert!(command.try_get_matches_from(["--collector", "http://a:1"]).is_err());
}

#[test]
fn a_named_file_must_be_there_the_usual_one_need_not() {
    assert!(load_with::<Run>(&[], None, &nowhere()).is_ok());
    let gone = Path::new("/nonexistent/other.toml");
    let by_flag = load_with::<Run>(&[], Some(gone), &nowhere()).unwrap_err().to_string();
    assert!(by_flag.contains("other.toml (flag --config)"), "{by_flag}");
    let around = with(&[("HOTSPAN_CONFIG", "/nonexistent/other.toml")]);
    let by_variable = load_with::<Run>(&[], None, &around).unwrap_err().to_string();
    assert!(by_variable.contains("HOTSPAN_CONFIG"), "{by_variable}");

    let [usual, named] = [TempFile::new("hz = 1"), TempFile::new("hz = 2")];
    let mut around = nowhere();
    around.default_file.clone_from(&usual.0);
    assert_eq!(load_with::<Run>(&[], None, &around).unwrap().hz.value, 1);
    around.environment.insert("HOTSPAN_CONFIG".to_owned(), (&named.0).into());
    assert_eq!(load_with::<Run>(&[], None, &around).unwrap().hz.value, 2);
    // A directory is there and cannot be read: an error even in the usual place.
    around = nowhere();
    around.default_file = std::env::temp_dir();
    assert!(load_with::<Run>(&[], None, &around).is_err());
}

fn round_trip<K: Kind>() {
    for pick in 0..3 {
        let text = TABLE.iter().map(|row| line(row, samples(row.key).0[pick])).collect::<String>();
        // One with everything set, one with every default.
        for text in [text, String::new()] {
            let first = load_with::<K>(&[], Some(&TempFile::new(&text).0), &nowhere()).unwrap();
            let printed = first.print();
            let again = TempFile::new(&printed);
            let second = load_with::<K>(&[], Some(&again.0), &nowhere());
            let second = second.unwrap_or_else(|error| panic!("{error} in\n{printed}"));
            for ((row, a), (_, b)) in first.shown().into_iter().zip(second.shown()) {
                if row.is_used_by(K::COMMAND) && !row.secret {
                    assert_eq!(a.value, b.value, "{} in\n{printed}", row.key);
                }
            }
            for secret in samples("web_token").0 {
                assert!(!printed.contains(secret) && !format!("{first:?}").contains(secret));
            }
        }
    }
}

#[test]
fn what_is_printed_loads_as_the_same() {
    round_trip::<Run>();
    round_trip::<Agent>();
    round_trip::<Collector>();
}

#[test]
fn printed_lines_name_their_source() {
    let around = with(&[("HOTSPAN_LOG", "info"), ("HOTSPAN_WEB_TOKEN", "0123456789abcdef")]);
    let file = TempFile::new("\nretention_age = \"36h\"");
    let text = load_with::<Run>(&["--hz", "7"], Some(&file.0), &around).unwrap().print();
    for line in [
        "hz = 7  # flag --hz",
        "log = \"info\"  # environment variable HOTSPAN_LOG",
        "# web_token = \"***\"  # environment variable HOTSPAN_WEB_TOKEN",
        &format!("retention_age = \"1d12h\"  # {}:2", file.0.display()),
        "queue_bytes = \"64MiB\"  # default",
        "# duration is not set  # default",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn unknown_variables_are_warned_about() {
    let others = ["CONFIG", "LANES", "LANES_X", "TS", "API", "TOKEN", "BIN", "KEEP", "DISABLE"];
    let mut around = with(&[("HOTSPAN_HZZ", "1"), ("HOTSPAN_COLOUR", "1"), ("HOTSPANX", "1")]);
    for other in others {
        around.environment.insert(format!("HOTSPAN_{other}"), "x".into());
    }
    around.environment.remove("HOTSPAN_CONFIG");
    let warnings = load_with::<Run>(&[], None, &around).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "environment variable HOTSPAN_COLOUR is no setting",
            "environment variable HOTSPAN_HZZ is no setting; did you mean HOTSPAN_HZ?",
        ]
    );
}

#[test]
fn an_exposed_token_is_warned_about() {
    let token = "web_token = \"0123456789abcdef\"";
    let file = TempFile::new(token);
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        let warnings = load_with::<Run>(&[], Some(&file.0), &nowhere()).unwrap().warnings;
        assert_eq!(warnings.iter().any(|line| line.contains("chmod 600")), warned, "{mode:o}");
    }
    let flag = load_with::<Run>(&["--web-token=0123456789abcdef"], None, &nowhere()).unwrap();
    assert!(flag.warnings.iter().any(|line| line.contains("--web-token")));
}

#[test]
fn a_page_for_other_hosts_needs_a_token() {
    let try_with = |arguments: &[&str]| load_with::<Run>(arguments, None, &nowhere());
    for open in ["0.0.0.0:7690", "192.0.2.1:1", "[::]:1", "[::ffff:192.0.2.1]:1"] {
        let flag = format!("--web={open}");
        assert!(matches!(try_with(&[&flag]), Err(ConfigError::OpenWeb { .. })), "{open}");
        assert!(try_with(&[&flag, "--web-token=0123456789abcdef"]).is_ok(), "{open}");
        assert!(try_with(&[&flag, "--no-web"]).is_ok(), "{open}");
        // An agent serves no page, whatever a common file says.
        let file = TempFile::new(&format!("web = {open:?}"));
        assert!(load_with::<Agent>(&[], Some(&file.0), &nowhere()).is_ok());
    }
    for closed in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(try_with(&[&format!("--web={closed}")]).is_ok(), "{closed}");
    }
}

#[test]
fn the_state_directory_follows_the_user() {
    let dir = |around: &Surroundings| {
        load_with::<Run>(&[], None, around).map(|settings| {
            let token = settings.ingest_token_file.value.clone();
            assert_eq!(token, settings.data_dir.value.join("ingest-token"));
            settings.data_dir.value.clone()
        })
    };
    assert_eq!(dir(&nowhere()).unwrap(), Path::new("/home/me/.local/state/hotspan"));
    let mut around = with(&[("XDG_STATE_HOME", "/state/")]);
    assert_eq!(dir(&around).unwrap(), Path::new("/state/hotspan"));
    around.environment.insert("XDG_STATE_HOME".to_owned(), "relative".into());
    assert_eq!(dir(&around).unwrap(), Path::new("/home/me/.local/state/hotspan"));
    around.environment.clear();
    assert!(matches!(dir(&around), Err(ConfigError::NoStateDir)));
    around.root = true;
    assert_eq!(dir(&around).unwrap(), Path::new("/var/lib/hotspan"));
    around = with(&[("HOTSPAN_DATA_DIR", "/data/")]);
    assert_eq!(dir(&around).unwrap(), Path::new("/data"));
}

#[test]
fn flags_tell_given_from_absent_and_keep_secrets() {
    let none = flags::<Run>(&[]);
    assert!(none.given.is_empty() && none.config.is_none() && !none.print_config);
    let some = flags::<Run>(&["--no-web", "--web-hosts=a", "--web-hosts", "b,c", "--print-config"]);
    assert_eq!(some.given["no_web"], "true");
    assert_eq!(some.given["web_hosts"], "a,b,c");
    assert!(some.print_config);
    let secret = flags::<Run>(&["--web-token=0123456789abcdef"]);
    assert!(!format!("{secret:?}").contains("0123456789abcdef"));
    Flags::<Run>::augment_args(clap::Command::new("test")).debug_assert();
}
