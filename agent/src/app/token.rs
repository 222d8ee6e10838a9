//! The ingest token: made by the collector in its data directory, shown by agents.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use crate::{model::id::hex, process::host::random};

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// The token in a file, made on first use. Only its owner can read it.
pub(super) fn read_or_make(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => checked(path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error).with_context(|| cannot_read(path)),
    }
}

/// The token in a file that somebody else made.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "{}: copy it from the collector's data directory, or name it with --ingest-token-file",
            cannot_read(path)
        )
    })?;
    checked(path, &text)
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the ingest token {}", path.display())
}

fn checked(path: &Path, text: &str) -> anyhow::Result<String> {
    let token = text.trim();
    let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() < SHORTEST || !plain {
        bail!(
            "{} holds no token of {SHORTEST} or more printable characters: delete it, and the \
             collector makes a new one",
            path.display()
        );
    }
    Ok(token.to_owned())
}

fn make(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot write the ingest token {}", path.display());
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(cannot)?;
    }
    let bytes: [u8; 32] = random().context("the kernel gives no random bytes")?;
    let token = hex(&bytes);
    let mut options = File::options();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
    file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = std::env::temp_dir().join(format!("hotspan-token-{}", std::process::id()));
        let path = folder.join("new/ingest-token");
        let token = read_or_make(&path).unwrap();
        assert_eq!((token.len(), read_or_make(&path).unwrap()), (64, token));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("delete it"));
        assert!(read(&folder.join("absent")).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
