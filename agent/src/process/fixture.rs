//! What tests of files and processes use: folders of their own, a C program that says where its
//! functions are, and maps of processes that never were.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::maps::ProcessMap;
use crate::model::id::Pid;

/// No process has this id.
pub(crate) const NOBODY: Pid = Pid(0x7fff_ffff);

/// Prints the addresses of a call in `called_from_inner` as seen inline in `outer`, and of
/// `plain`; then waits to be let go. Line numbers are asserted on.
const SOURCE: &str = r#"#include <stdio.h>
__attribute__((noipa)) void *here(void) { return __builtin_return_address(0); }
static inline __attribute__((always_inline)) void *inner(int *x) {
    void *at = here(); /* line 4 */
    *x += 1;
    return at;
}
__attribute__((noipa)) void *outer(int *x) {
    *x += 2;
    return inner(x); /* line 10 */
}
__attribute__((noipa)) int plain(int x) { return x * 3; } /* line 12 */
int main(void) {
    int x = 0;
    printf("%p %p\n", outer(&x), (void *)plain);
    fflush(stdout);
    return getchar() == plain(x);
}
"#;

/// A directory of its own, removed at the end of the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("hotspan-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The C program, built here with more `options` and source text.
    pub(crate) fn compile(&self, name: &str, more: &str, options: &[&str]) -> PathBuf {
        let (source, program) = (self.path("fixture.c"), self.path(name));
        fs::write(&source, format!("{SOURCE}{more}")).unwrap();
        let output = Command::new("cc")
            .args(["-g", "-O1", "-o"])
            .args([&program, &source])
            .args(options)
            .output()
            .expect("this test needs a C compiler: apt-get install gcc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program
    }

    /// Adds a section to a program. (The linker discards some that a debugger honours.)
    pub(crate) fn add_section(&self, program: &Path, name: &str, content: &[u8]) {
        let file = self.path("section");
        fs::write(&file, content).unwrap();
        let option = format!("--add-section={name}={}", file.display());
        let status = Command::new("objcopy").arg(option).arg(program).status();
        assert!(status.expect("this test needs objcopy: apt-get install binutils").success());
    }

    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The map of a dead process that had the whole of `path` at `0x10000`, executable.
pub(crate) fn map_of(path: &Path) -> Arc<ProcessMap> {
    let meta = fs::metadata(path).unwrap();
    let (dev, inode) = (meta.dev(), meta.ino());
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let line =
        format!("10000-ffffffff0000 r-xp 0 {major:x}:{minor:x} {inode} {}\n", path.display());
    Arc::new(ProcessMap::parse(NOBODY, line.as_bytes()))
}
