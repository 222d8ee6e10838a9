//! The configuration file: which one, and what each of its lines says.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    ConfigError, Source,
    nearest::nearest,
    surroundings::{CONFIG_VARIABLE, Surroundings},
    table::{Row, TABLE},
    value::Shape,
};

/// A file that was read; all its keys are settings, all its values have the right look.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    mode: u32,
    /// Line and text by key.
    said: BTreeMap<&'static str, (usize, String)>,
}

// === impl File ===

impl File {
    /// The file that `--config` or the environment names, else the usual one if it is there.
    pub(super) fn find(
        flag: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Result<Option<Self>, ConfigError> {
        let variable = surroundings.environment.get(CONFIG_VARIABLE);
        let (path, named_by) = if let Some(path) = flag {
            (path.to_owned(), Source::Flag("--config".to_owned()))
        } else if let Some(path) = variable {
            (path.into(), Source::Environment(CONFIG_VARIABLE.to_owned()))
        } else {
            (surroundings.default_file.clone(), Source::Default)
        };
        let read = fs::metadata(&path).and_then(|file| {
            fs::read_to_string(&path).map(|text| (file.permissions().mode(), text))
        });
        match read {
            Ok((mode, text)) => Self::parse(path, mode, &text).map(Some),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && named_by == Source::Default =>
            {
                Ok(None)
            }
            Err(error) => Err(ConfigError::Unreadable { path, named_by, error }),
        }
    }

    fn parse(path: PathBuf, mode: u32, text: &str) -> Result<Self, ConfigError> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = line(error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                return Err(ConfigError::Syntax { path, line, message });
            }
        };
        // In the order of the file: whoever corrects it goes from its top to its end.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut said = BTreeMap::new();
        for (key, value) in entries {
            let line = line(key.span().start);
            let name: &str = key.get_ref();
            let Some(row) = TABLE.iter().find(|row| row.key == name) else {
                let nearest = nearest(name, TABLE.iter().map(|row| row.key));
                return Err(ConfigError::UnknownKey { path, line, key: name.to_owned(), nearest });
            };
            match as_text(row.shape, value.get_ref()) {
                Ok(text) => said.insert(row.key, (line, text)),
                Err(text) => {
                    return Err(ConfigError::value(row, &text, Source::File { path, line }));
                }
            };
        }
        Ok(Self { path, mode, said })
    }

    /// What it says for `row`, and where.
    pub(super) fn get(&self, row: &Row) -> Option<(String, Source)> {
        let (line, text) = self.said.get(row.key)?;
        Some((text.clone(), Source::File { path: self.path.clone(), line: *line }))
    }

    /// Whether users other than its owner and group can read it.
    pub(super) fn is_readable_by_all(&self) -> bool {
        self.mode & 0o004 != 0
    }
}

/// The value as text, the way the other sources give it; as error what was there instead.
fn as_text(shape: Shape, value: &DeValue<'_>) -> Result<String, String> {
    let list = |items: Vec<&str>| {
        // A comma inside an item would make two of it.
        let text = items.join(",");
        if items.iter().any(|item| item.contains(',') || item.is_empty()) {
            Err(text)
        } else {
            Ok(text)
        }
    };
    match (shape, value) {
        (Shape::Text | Shape::Number, DeValue::String(text)) => Ok(text.to_string()),
        (Shape::Number, DeValue::Integer(number)) => {
            i128::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string())
                .map_err(|_| number.to_string())
        }
        (Shape::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Shape::List, DeValue::Array(items)) => {
            let texts: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map_or_else(|| Err("an array of other things".to_owned()), list)
        }
        (_, DeValue::String(text)) => Err(text.to_string()),
        (_, DeValue::Integer(number)) => Err(number.to_string()),
        (_, DeValue::Float(number)) => Err(number.to_string()),
        (_, DeValue::Boolean(value)) => Err(value.to_string()),
        (_, DeValue::Datetime(time)) => Err(time.to_string()),
        (_, DeValue::Array(_)) => Err("an array".to_owned()),
        (_, DeValue::Table(_)) => Err("a table".to_owned()),
    }
}
