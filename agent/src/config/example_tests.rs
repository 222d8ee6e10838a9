//! What `deploy/` says about settings is what the table says. After a change,
//! `cargo test -p hotspan write_example -- --ignored` writes the example file anew.

use super::{
    fixture::{flags, nowhere, with},
    flags::{Agent, Collector},
    load,
    table::{Default, Row, TABLE},
    value::Shape,
};

const COMMITTED: &str = include_str!("../../../deploy/systemd/hotspan.toml");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/hotspan.toml");

const HEAD: &str = "\
# Settings of hotspan, for /etc/hotspan/hotspan.toml. Each is shown with its default; remove the `#`
# to change it. The same names work in the environment (data_dir is HOTSPAN_DATA_DIR) and as flags
# (--data-dir). Flags win over the environment, the environment over this file. One file serves all
# commands. `hotspan run --print-config` shows what holds, and who said so.
# Made from the table in agent/src/config/table.rs: a test compares.
";

fn example() -> String {
    let mut text = HEAD.to_owned();
    for row in &TABLE {
        let Row { key, help, allowed, used_by, .. } = row;
        let users: Vec<_> = used_by.iter().map(ToString::to_string).collect();
        let default = match (row.default, row.shape) {
            (Default::Text(text), Shape::Switch) => text.to_owned(),
            (Default::Text(text), Shape::Number) if text.parse::<u64>().is_ok() => text.to_owned(),
            (Default::Text(""), Shape::List) => "[]".to_owned(),
            (Default::Text(text), _) => format!("{text:?}"),
            (Default::Unset, _) => "\"...\"  # not set".to_owned(),
            (Default::StateDir, _) => "\"/var/lib/hotspan\"".to_owned(),
            (Default::InDataDir(name), _) => format!("\"/var/lib/hotspan/{name}\""),
        };
        let about = wrap(&format!("{help}. Must be {allowed}. For {}.", users.join(", ")));
        text += &format!("\n{about}#{key} = {default}\n");
    }
    text
}

/// Comment lines of at most 100 columns.
fn wrap(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), "#".to_owned());
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > 100 {
            lines += &format!("{line}\n");
            line = "#".to_owned();
        }
        line += &format!(" {word}");
    }
    lines + &line + "\n"
}

#[test]
fn the_example_is_what_the_table_says() {
    assert!(COMMITTED == example(), "write it anew (see this file's head):\n{}", example());
}

#[test]
fn the_example_loads_with_every_line_uncommented() {
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let lines: Vec<&str> = COMMITTED.lines().filter(is_setting).map(|line| &line[1..]).collect();
    let table: toml::Table = lines.join("\n").parse().unwrap();
    assert_eq!(table.len(), TABLE.len());
    assert!(TABLE.iter().all(|row| table.contains_key(row.key)));
}

/// The flags in a manifest.
fn manifest_flags(manifest: &str) -> Vec<&str> {
    manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .filter(|text| text.starts_with("--"))
        .collect()
}

#[test]
fn the_manifests_say_settings() {
    let agent = include_str!("../../../deploy/kubernetes/agent.yaml");
    let collector = include_str!("../../../deploy/kubernetes/collector.yaml");
    let [agent, collector] = [agent, collector].map(manifest_flags);
    assert!(agent.len() > 2 && collector.len() > 2, "{agent:?} {collector:?}");
    let settings = load(&flags::<Agent>(&agent), &nowhere()).unwrap();
    assert_eq!(settings.collector.value.to_string(), "http://hotspan-collector.hotspan.svc:7691");
    let settings = load(&flags::<Collector>(&collector), &nowhere()).unwrap();
    assert!(!settings.ingest.value.ip().is_loopback() && settings.web.value.ip().is_loopback());

    // The component that opens the page: its variables, and no open page without its token.
    let web = include_str!("../../../deploy/kubernetes/web/kustomization.yaml");
    let names: Vec<_> =
        web.lines().filter_map(|line| line.trim().strip_prefix("- name: HOTSPAN_")).collect();
    assert_eq!(names, ["WEB", "WEB_HOSTS", "WEB_TOKEN"]);
    let open = [("HOTSPAN_WEB", "0.0.0.0:7690"), ("HOTSPAN_WEB_TOKEN", "0123456789abcdef")];
    assert!(load(&flags::<Collector>(&collector), &with(&open)).unwrap().warnings.is_empty());
    assert!(load(&flags::<Collector>(&collector), &with(&open[..1])).is_err());
}

#[test]
#[ignore = "writes the example"]
fn write_example() {
    std::fs::write(PATH, example()).unwrap();
}
