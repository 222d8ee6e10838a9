//! `hotspan span ID`: where one span's time went.

use std::{io, process::ExitCode};

use anyhow::bail;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};

use super::{
    client::{ClientError, Endpoint},
    render::{self, span as view},
    states, write_json, written,
};
use crate::{
    document::{assemble::Scope, span::SpanDocument},
    model::{
        id::{SpanId, TraceId},
        state::State,
    },
};

/// What help ends with.
pub const EXAMPLES: &str = "\
Examples:
  hotspan span 00f067aa0ba902b7               by the span's id, as `hotspan spans` shows it
  hotspan span TRACE/SPAN --scope children    with its descendants in its process
  hotspan span 00f067aa0ba902b7 --state lock  who held the lock, and where it was wanted
  hotspan span 00f067aa0ba902b7 --reverse     innermost functions first, their callers below
  hotspan span 00f067aa0ba902b7 --json        the document, as from the API";

/// Arguments of `span`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Which span: TRACE/SPAN or SPAN alone, in hex, as `hotspan spans` shows it.
    #[arg(value_name = "ID", value_parser = id)]
    pub id: String,
    /// What is summed: the span alone, it with its `children` in its process, its `trace` in its
    /// process or on its host, all threads of its process during the span (`period`), or for a
    /// minute around it (`process`).
    #[arg(long, value_name = "SCOPE", default_value = "span", value_parser = PossibleValuesParser::new(Scope::ALL.map(Scope::key)).map(|key| Scope::from_key(&key).unwrap_or_default()))]
    pub scope: Scope,
    /// Causes, functions and stacks of this state only.
    #[arg(long, value_name = "STATE", value_parser = states())]
    pub state: Option<State>,
    /// Stacks from the innermost function up: who called it.
    #[arg(long)]
    pub reverse: bool,
    /// Causes and functions listed.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Which process, where several published the same ids.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Print the document as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which hotspan.
    #[command(flatten)]
    pub endpoint: Endpoint,
}

/// Checks an id; it goes into a path as it is.
fn id(text: &str) -> Result<String, String> {
    let (trace, span) = text.split_once('/').map_or((None, text), |(t, s)| (Some(t), s));
    let fits = trace.is_none_or(|trace| trace.parse::<TraceId>().is_ok())
        && span.parse::<SpanId>().is_ok();
    match fits {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err("must be TRACE/SPAN (32 and 16 hex digits) or SPAN (16 hex digits)".to_owned())
        }
    }
}

/// Shows one span.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut query = vec![("scope", arguments.scope.key().to_owned())];
    query.extend(arguments.pid.map(|pid| ("pid", pid.to_string())));
    let path = format!("/api/span/{}", arguments.id);
    let body = match arguments.endpoint.get(&path, &query) {
        Err(ClientError::Api { code, candidates, .. }) if code == "ambiguous" => {
            bail!(which(&arguments.id, &candidates));
        }
        answer => answer?,
    };
    match (arguments.json, arguments.state) {
        (true, None) => return written(write_json(&body)),
        (true, Some(state)) => {
            let mut span: SpanDocument = arguments.endpoint.read(&body)?;
            view::restrict(&mut span, state);
            let text = serde_json::to_string(&span)?;
            return written(write_json(format!("{text}\n").as_bytes()));
        }
        (false, _) => {}
    }
    let span: SpanDocument = arguments.endpoint.read(&body)?;
    let mut out = io::stdout().lock();
    let style = render::Style::for_stdout(arguments.top);
    let shown = view::View { state: arguments.state, reverse: arguments.reverse };
    written(view::write(&span, shown, &mut out, &style))
}

/// The spans an id may mean, ready to be copied.
fn which(id: &str, candidates: &[SpanDocument]) -> String {
    let lines = candidates.iter().map(|span| {
        let what = format!("{} of {} ({})", span.name, span.service, span.process.pid);
        format!("\n  hotspan span {}/{}  {}", span.trace_id, span.span_id, what)
    });
    render::plain(&format!("several traces have a span {id}:{}", lines.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_of_their_length() {
        let trace = "4BF92F3577B34DA6A3CE929D0E0E4736";
        assert_eq!(id("00F067AA0BA902B7").unwrap(), "00f067aa0ba902b7");
        assert!(id(&format!("{trace}/00f067aa0ba902b7")).is_ok());
        for wrong in
            ["", "00f0", trace, "00f067aa0ba902b7/", "../../etc/passwd", "?00f067aa0ba902b"]
        {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }
}
