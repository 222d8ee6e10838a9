//! `hotspan spans`: the spans that are stored, newest or slowest first.

use std::{
    io,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{
    client::Endpoint,
    duration::{self, Nanoseconds},
    render::{self, list},
    states, write_json, written,
};
use crate::{document::span::SpanDocument, model::state::State};

/// What help ends with.
pub const EXAMPLES: &str = "\
Examples:
  hotspan spans                               the 20 newest
  hotspan spans --sort slowest --since 15m    the slowest of the last 15 minutes
  hotspan spans --service shop --min 10ms     of one service, at least 10 ms
  hotspan spans --state lock -n 100           that waited for a lock
  hotspan spans --json | jq '.spans[].name'   for programs";

/// Arguments of `spans`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Only spans of this service (without an identity: the name of the executable).
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only spans with this operation name, like "GET /checkout".
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only spans of this process.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Only spans at least this long: 10ms, 1.5s.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub min: Option<Nanoseconds>,
    /// Only spans with time in this state.
    #[arg(long, value_name = "STATE", value_parser = states())]
    pub state: Option<State>,
    /// Only spans of the last ...: 15m, 2h.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub since: Option<Nanoseconds>,
    /// Only spans from before the last ...: 5m.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub until: Option<Nanoseconds>,
    /// Which come first.
    #[arg(long, value_enum, default_value_t = Order::Newest)]
    pub sort: Order,
    /// How many at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub limit: u64,
    /// Print the API's answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which hotspan.
    #[command(flatten)]
    pub endpoint: Endpoint,
}

/// Order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Latest first.
    Newest,
    /// Longest first.
    Slowest,
}

/// What the API answers.
#[derive(Deserialize)]
struct Answer {
    spans: Vec<SpanDocument>,
    truncated: bool,
}

/// Lists spans.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_unix_ns = since_epoch.as_nanos() as u64;
    let body = arguments.endpoint.get("/api/spans", &arguments.query(now_unix_ns))?;
    if arguments.json {
        return written(write_json(&body));
    }
    let mut out = io::stdout().lock();
    let answer: Answer = arguments.endpoint.read(&body)?;
    let title = list::Title {
        order: match arguments.sort {
            Order::Newest => "newest first",
            Order::Slowest => "slowest first",
        },
        filters: arguments.filters(),
        truncated: answer.truncated,
        now_unix_ns,
    };
    let style = render::Style::for_stdout(answer.spans.len());
    written(list::write(&answer.spans, &title, &mut out, &style))
}

// === impl Arguments ===

impl Arguments {
    fn query(&self, now_unix_ns: u64) -> Vec<(&'static str, String)> {
        let ago = |time: Nanoseconds| now_unix_ns.saturating_sub(time.0).to_string();
        let sort = match self.sort {
            Order::Newest => "newest",
            Order::Slowest => "slowest",
        };
        let all = [
            ("service", self.service.clone()),
            ("name", self.name.clone()),
            ("pid", self.pid.map(|pid| pid.to_string())),
            ("min_ns", self.min.map(|min| min.0.to_string())),
            ("state", self.state.map(|state| state.key().to_owned())),
            ("from_unix_ns", self.since.map(ago)),
            ("to_unix_ns", self.until.map(ago)),
            ("sort", Some(sort.to_owned())),
            ("limit", Some(self.limit.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The filters, as somebody would type them.
    fn filters(&self) -> Vec<String> {
        let time = |time: Nanoseconds| render::compact_time(time.0);
        let all = [
            ("--service", self.service.clone()),
            ("--name", self.name.clone()),
            ("--pid", self.pid.map(|pid| pid.to_string())),
            ("--min", self.min.map(time)),
            ("--state", self.state.map(|state| state.key().to_owned())),
            ("--since", self.since.map(time)),
            ("--until", self.until.map(time)),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given
            .map(|(name, value)| match value.contains(char::is_whitespace) {
                true => format!("{name} '{value}'"),
                false => format!("{name} {value}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(text: &[&str]) -> Result<Arguments, clap::Error> {
        let text = ["spans"].iter().chain(text);
        Command::try_parse_from(text).map(|command| command.arguments)
    }

    #[test]
    fn filters_become_parameters() {
        let arguments = parsed(&[
            "--service",
            "shop",
            "--name",
            "GET /cart",
            "--min",
            "10ms",
            "--state",
            "lock",
            "--since",
            "15m",
            "--sort",
            "slowest",
            "-n",
            "5",
        ])
        .unwrap();
        let query: Vec<String> = arguments
            .query(1_000_000_000_000)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            query,
            [
                "service=shop",
                "name=GET /cart",
                "min_ns=10000000",
                "state=lock",
                "from_unix_ns=100000000000",
                "sort=slowest",
                "limit=5",
            ]
        );
        assert_eq!(
            arguments.filters().join(" "),
            "--service shop --name 'GET /cart' --min 10ms --state lock --since 15m"
        );
    }

    #[test]
    fn nonsense_is_refused_at_once() {
        for wrong in [["--min", "10"], ["--state", "lok"], ["--sort", "oldest"], ["-n", "0"]] {
            assert!(parsed(&wrong).is_err(), "{wrong:?}");
        }
    }
}
