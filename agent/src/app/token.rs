//! The ingest token: made by the collector in its data directory, shown by agents.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use crate::{
    model::id::hex,
    process::{
        host::random,
        own::{Access, OwnDirectory, OwnError, trusted_file},
    },
};

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// Longer files hold something else.
const LONGEST: u64 = 4096;

/// The token in a file, made on first use. Only its owner can read it.
pub(super) fn read_or_make(path: &Path) -> anyhow::Result<String> {
    match trusted(path) {
        Ok(text) => checked(path, &text),
        Err(error) if error.is_absent() => make(path),
        Err(error) => Err(error).with_context(|| cannot_read(path)),
    }
}

/// The token in a file that somebody else made.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text = trusted(path).map_err(|error| {
        let remedy = match error.is_absent() {
            true => {
                ": copy it from the collector's data directory, or name it with --ingest-token-file"
            }
            false => "",
        };
        anyhow::Error::new(error).context(cannot_read(path) + remedy)
    })?;
    checked(path, &text)
}

/// A file that only root or we could have written: whoever knows the token can send what it likes.
fn trusted(path: &Path) -> Result<String, OwnError> {
    let failed = |error| OwnError::Io { path: path.into(), error };
    let file = trusted_file(path)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o004 != 0 {
        tracing::warn!("{0} can be read by every user of this host: chmod 600 {0}", path.display());
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Whose the token in a file is: that user's collector made it, or was given it.
pub(super) fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.uid())
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
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let directory = OwnDirectory::make(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
    let name = path.file_name().and_then(|name| name.to_str()).with_context(cannot)?;
    let bytes: [u8; 32] = random().context("the kernel gives no random bytes")?;
    let token = hex(&bytes);
    let file = directory.file(name, Access::New).with_context(cannot)?;
    let mut file = file.with_context(cannot)?;
    file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
