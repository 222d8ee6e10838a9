//! Every way to make a directory or a file of ours lead elsewhere is refused, and says what to do.

use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
};

use rustix::process::geteuid;

use super::*;
use crate::process::fixture::Directory;

const NOBODY: u32 = 65_534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Gives something to another user, as only root can.
fn give(path: &Path) -> bool {
    let given = geteuid().is_root() && chown(path, Some(NOBODY), Some(NOBODY)).is_ok();
    if !given {
        println!("skipped: only root can give files away");
    }
    given
}

#[test]
fn a_fresh_directory_is_its_owners_alone() {
    let directory = Directory::new("own-fresh");
    let own = OwnDirectory::make(&directory.path("a/b")).unwrap();
    for made in ["a", "a/b"] {
        let mode = fs::metadata(directory.path(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{made}");
    }
    assert_eq!(own.path(), fs::canonicalize(directory.path("a/b")).unwrap());
    assert!(OwnDirectory::open(&directory.path("absent")).unwrap_err().is_absent());
}

#[test]
fn who_may_write_to_it_decides() {
    let directory = Directory::new("own-modes");
    let data = directory.path("data");
    for (given, fits) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false)] {
        let _ = fs::create_dir(&data);
        mode(&data, given);
        assert_eq!(OwnDirectory::make(&data).is_ok(), fits, "{given:o}");
    }
    let error = OwnDirectory::make(&data).unwrap_err().to_string();
    assert!(error.contains("mode 0777") && error.contains("chmod go-w"), "{error}");
    // Nothing was made to fit.
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o777);
}

#[test]
fn a_directory_of_another_user_is_refused_wherever_it_is_on_the_way() {
    let directory = Directory::new("own-foreign");
    let (theirs, below) = (directory.path("theirs"), directory.path("theirs/ours"));
    OwnDirectory::make(&below).unwrap();
    if !give(&theirs) {
        return;
    }
    for path in [&theirs, &below] {
        let error = OwnDirectory::make(path).unwrap_err();
        assert!(matches!(error, OwnError::Foreign { owner: NOBODY, .. }), "{error}");
        assert!(error.to_string().contains("user 65534"), "{error}");
    }
}

#[test]
fn below_what_others_write_to_only_what_is_ours_and_cannot_be_moved() {
    let directory = Directory::new("own-shared");
    let shared = directory.path("shared");
    let own = shared.join("hotspan");
    fs::create_dir(&shared).unwrap();
    mode(&shared, 0o777);
    assert!(matches!(OwnDirectory::make(&own), Err(OwnError::Writable { .. })));
    // As /tmp is.
    mode(&shared, 0o1777);
    OwnDirectory::make(&own).unwrap();
    if give(&own) {
        assert!(matches!(OwnDirectory::make(&own), Err(OwnError::Foreign { .. })));
    }
}

#[test]
fn links_lead_only_where_root_or_we_say() {
    let directory = Directory::new("own-links");
    OwnDirectory::make(&directory.path("real/data")).unwrap();
    let link = directory.path("link");
    symlink("real", &link).unwrap();
    let own = OwnDirectory::make(&directory.path("link/data")).unwrap();
    assert_eq!(own.path(), fs::canonicalize(directory.path("real/data")).unwrap());
    // A way back is one without links: `link/..` is where the link is, as the walk had it.
    let back = OwnDirectory::make(&directory.path("link/data/../data")).unwrap();
    assert_eq!(back.path(), own.path());
    symlink("loop", directory.path("loop")).unwrap();
    assert!(OwnDirectory::make(&directory.path("loop/data")).is_err());
    // One of somebody else's, where they may make some.
    let shared = directory.path("shared");
    fs::create_dir(&shared).unwrap();
    mode(&shared, 0o1777);
    let theirs = shared.join("hotspan");
    symlink(directory.path("real/data"), &theirs).unwrap();
    if geteuid().is_root() {
        std::os::unix::fs::lchown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
        assert!(matches!(OwnDirectory::make(&theirs), Err(OwnError::Foreign { .. })));
    }
}

#[test]
fn a_file_is_never_another() {
    let directory = Directory::new("own-files");
    let own = OwnDirectory::make(&directory.path("data")).unwrap();
    let victim = directory.path("victim");
    fs::write(&victim, "not to be touched").unwrap();
    let at = |name: &str| own.path().join(name);
    symlink(&victim, at("link")).unwrap();
    fs::hard_link(&victim, at("twin")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("open"), "").unwrap();
    mode(&at("open"), 0o666);
    for access in [Access::Read, Access::Change] {
        assert!(matches!(own.file("link", access), Err(OwnError::Link { .. })));
        assert!(matches!(own.file("twin", access), Err(OwnError::Shared { names: 2, .. })));
        assert!(matches!(own.file("folder", access), Err(OwnError::Kind { .. })));
        assert!(matches!(own.file("open", access), Err(OwnError::Writable { mode: 0o666, .. })));
    }
    assert!(own.file("twin", Access::New).is_err());
    assert!(own.file("absent", Access::Read).unwrap().is_none());
    own.file("kept", Access::New).unwrap().unwrap().write_all(b"kept").unwrap();
    let mut text = String::new();
    own.file("kept", Access::Change).unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.as_str(), fs::read_to_string(&victim).unwrap()),
        ("kept", "not to be touched".into())
    );
    assert_eq!(fs::metadata(at("kept")).unwrap().permissions().mode() & 0o777, 0o600);
    if give(&at("kept")) {
        assert!(matches!(own.file("kept", Access::Read), Err(OwnError::Foreign { .. })));
    }
}

#[test]
fn what_was_left_in_it_is_found() {
    let directory = Directory::new("own-left");
    let own = OwnDirectory::make(&directory.path("data")).unwrap();
    fs::write(own.path().join("part.db"), "").unwrap();
    fs::hard_link(own.path().join("part.db"), directory.path("backup")).unwrap();
    own.check_all(|name| name == "part.db").unwrap();
    assert!(matches!(own.check_all(|_| false), Err(OwnError::Shared { .. })));
    drop(UnixListener::bind(own.path().join("socket")).unwrap());
    mode(&own.path().join("socket"), 0o600);
    own.check_all(|name| name == "part.db").unwrap();
    let left = own.path().join("part.db-wal");
    symlink(directory.path("backup"), &left).unwrap();
    assert!(matches!(own.check_all(|_| true), Err(OwnError::Link { .. })));
    fs::remove_file(&left).unwrap();
    fs::write(&left, "").unwrap();
    if give(&left) {
        let error = own.check_all(|name| name == "part.db").unwrap_err();
        assert!(error.to_string().contains("part.db-wal belongs to user 65534"), "{error}");
    }
}

#[test]
fn a_trusted_file_may_be_a_link_of_roots() {
    let directory = Directory::new("own-trusted");
    let file = |name: &str| directory.path(name);
    // As Kubernetes mounts a secret.
    let secret = file("secret");
    fs::create_dir_all(secret.join("..2026")).unwrap();
    fs::write(secret.join("..2026/token"), "0123456789abcdef").unwrap();
    mode(&secret.join("..2026/token"), 0o440);
    mode(&secret, 0o1777);
    symlink("..2026", secret.join("..data")).unwrap();
    symlink("..data/token", secret.join("token")).unwrap();
    let mut text = String::new();
    trusted_file(&secret.join("token")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789abcdef");
    assert!(trusted_file(&secret.join("absent")).unwrap_err().is_absent());
    assert!(matches!(trusted_file(&secret), Err(OwnError::Kind { .. })));
    mode(&secret.join("..2026/token"), 0o666);
    assert!(matches!(trusted_file(&secret.join("token")), Err(OwnError::Writable { .. })));
    mode(&secret.join("..2026/token"), 0o600);
    if give(&secret.join("..2026/token")) {
        assert!(matches!(trusted_file(&secret.join("token")), Err(OwnError::Foreign { .. })));
    }
    mode(&secret, 0o777);
    assert!(matches!(trusted_file(&secret.join("token")), Err(OwnError::Writable { .. })));
}
