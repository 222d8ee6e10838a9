//! The flags, made from the table: a command has those of the settings it uses, `--config` and
//! `--print-config`. They are kept as text, and only if given: `load` can tell, and complains about
//! a wrong value as everywhere else.

use std::{collections::BTreeMap, fmt, marker::PhantomData, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::ValueParser, value_parser,
};

use super::{
    CommandKind,
    table::{Row, TABLE},
    value::Shape,
};

const CONFIG: &str = "config";
const PRINT_CONFIG: &str = "print_config";

/// Texts by key.
pub(super) type Texts = BTreeMap<&'static str, String>;

/// A command as a type, so that clap knows its flags.
pub trait Kind {
    /// Which.
    const COMMAND: CommandKind;
}

/// The flags of `hotspan run`.
pub(crate) type RunFlags = Flags<Run>;
/// The flags of `hotspan agent`.
pub(crate) type AgentFlags = Flags<Agent>;
/// The flags of `hotspan collector`.
pub(crate) type CollectorFlags = Flags<Collector>;

/// Type of [`CommandKind::Run`].
#[derive(Clone, Copy, Debug)]
pub enum Run {}
/// Type of [`CommandKind::Agent`].
#[derive(Clone, Copy, Debug)]
pub enum Agent {}
/// Type of [`CommandKind::Collector`].
#[derive(Clone, Copy, Debug)]
pub enum Collector {}

/// What the command line says.
#[derive(Clone)]
pub struct Flags<K> {
    pub(super) given: Texts,
    /// The file named by `--config`.
    pub config: Option<PathBuf>,
    /// Whether to print the settings and end.
    pub print_config: bool,
    kind: PhantomData<K>,
}

// === impl Kind ===

impl Kind for Run {
    const COMMAND: CommandKind = CommandKind::Run;
}

impl Kind for Agent {
    const COMMAND: CommandKind = CommandKind::Agent;
}

impl Kind for Collector {
    const COMMAND: CommandKind = CommandKind::Collector;
}

// === impl Flags ===

impl<K: Kind> Flags<K> {
    fn rows() -> impl Iterator<Item = &'static Row> {
        TABLE.iter().filter(|row| row.is_used_by(K::COMMAND))
    }
}

impl<K> fmt::Debug for Flags<K> {
    /// Names only: a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags")
            .field("given", &self.given.keys())
            .field("config", &self.config)
            .field("print_config", &self.print_config)
            .finish()
    }
}

impl<K: Kind> Args for Flags<K> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(
                "TOML file with any of these settings (data_dir = \"...\"); flags win over the \
                 environment, the environment over the file [default: /etc/hotspan/hotspan.toml if \
                 it exists] [env: HOTSPAN_CONFIG]",
            );
        let print = Arg::new(PRINT_CONFIG)
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print every setting and who set it, then exit");
        command.args(Self::rows().map(arg)).arg(config).arg(print)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<K: Kind> FromArgMatches for Flags<K> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::rows().filter_map(|row| {
            let texts = matches.get_many::<String>(row.key)?;
            Some((row.key, texts.map(String::as_str).collect::<Vec<_>>().join(",")))
        });
        Ok(Self {
            given: given.collect(),
            config: matches.get_one(CONFIG).cloned(),
            print_config: matches.get_flag(PRINT_CONFIG),
            kind: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let Self { given, config, print_config, .. } = Self::from_arg_matches(matches)?;
        self.given.extend(given);
        self.config = config.or(self.config.take());
        self.print_config |= print_config;
        Ok(())
    }
}

/// The flag of `row`.
fn arg(row: &'static Row) -> Arg {
    let Row { key, help, name, allowed, default, .. } = row;
    let variable = row.variable();
    let arg = Arg::new(*key)
        .long(row.flag)
        .value_name(*name)
        .value_parser(ValueParser::string())
        .help(format!("{help} [default: {default}]"))
        .long_help(format!("{help}. Must be {allowed}.\n[default: {default}] [env: {variable}]"));
    match row.shape {
        Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::List => arg.action(ArgAction::Append),
        Shape::Number | Shape::Text => arg,
    }
}
