//! Builds the fixtures whose stacks are known, in the variants that unwinders must tell apart. Part of
//! the build script.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FOLDER: &str = "workloads/unwind";
const ALWAYS: [&str; 6] =
    ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fno-optimize-sibling-calls"];
const TABLES: [&str; 2] = ["-fomit-frame-pointer", "-fasynchronous-unwind-tables"];
const FRAME_POINTERS: [&str; 3] =
    ["-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];

/// One way to build the program.
struct Variant {
    name: &'static str,
    compiler: &'static str,
    /// Has tables, else frame pointers.
    has_tables: bool,
    /// Opens and calls shared objects.
    is_dynamic: bool,
    /// Of compiler and linker.
    flags: &'static [&'static str],
}

const VARIANTS: [Variant; 6] = [
    Variant {
        name: "pie",
        compiler: "cc",
        has_tables: true,
        is_dynamic: true,
        flags: &["-fPIE", "-pie", "-DUNWIND_DYNAMIC"],
    },
    Variant {
        name: "static_pie",
        compiler: "cc",
        has_tables: true,
        is_dynamic: false,
        flags: &["-fPIE", "-static-pie"],
    },
    Variant {
        name: "static",
        compiler: "cc",
        has_tables: true,
        is_dynamic: false,
        flags: &["-fno-pie", "-no-pie", "-static"],
    },
    Variant {
        name: "framed",
        compiler: "cc",
        has_tables: false,
        is_dynamic: true,
        flags: &["-fPIE", "-pie", "-DUNWIND_DYNAMIC"],
    },
    // Not even the innermost frame is of a library: what frame pointers alone can follow.
    Variant {
        name: "bare",
        compiler: "cc",
        has_tables: false,
        is_dynamic: false,
        flags: &["-fPIE", "-pie", "-DUNWIND_OWN_SYSCALL"],
    },
    // musl has neither tables nor frame pointers: waits must not be below it.
    Variant {
        name: "musl",
        compiler: "musl-gcc",
        has_tables: true,
        is_dynamic: false,
        flags: &["-static", "-DUNWIND_OWN_SYSCALL"],
    },
];

/// Builds everything into a folder. A compiler that is not installed leaves its variants out.
pub(crate) fn build(out: &Path) {
    println!("cargo::rerun-if-changed={FOLDER}");
    let place = out.join("unwind");
    // What an earlier build left must not pass for this one's.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("cargo's output folder is writable");
    shared(&place, "libshared.so", None);
    shared(&place, "libplugin1.so", Some("-DPLUGIN=1"));
    shared(&place, "libplugin2.so", Some("-DPLUGIN=2"));
    for variant in &VARIANTS {
        if is_installed(variant.compiler) {
            variant.build(&place);
        } else {
            println!(
                "cargo::warning=no `{}`: the unwinding fixture `{}` is left out",
                variant.compiler, variant.name
            );
        }
    }
    if is_installed("c++") {
        exceptions(&place);
    } else {
        println!("cargo::warning=no `c++`: the unwinding fixture `cxx` is left out");
    }
    println!("cargo::rustc-env=UNWIND_FIXTURES={}", place.display());
}

// === impl Variant ===

impl Variant {
    fn build(&self, place: &Path) {
        let mut objects = Vec::new();
        let mut sources = vec!["main.c", "waits.c", "burns.c"];
        if self.is_dynamic {
            sources.push("dlopen.c");
        }
        let usual = sources.into_iter().map(|source| (source, self.has_tables));
        for (source, has_tables) in usual.chain([("framed.c", false), ("tabled.c", true)]) {
            let frames: &[&str] = if has_tables { &TABLES } else { &FRAME_POINTERS };
            let flags = [&ALWAYS[..], self.flags, frames].concat();
            objects.push(object(self.compiler, source, &flags, place, self.name));
        }
        let mut link: Vec<OsString> = self.flags.iter().map(Into::into).collect();
        link.extend(objects.into_iter().map(PathBuf::into_os_string));
        link.push("-pthread".into());
        if self.is_dynamic {
            link.extend(["-Wl,-z,lazy".into(), "-Wl,-rpath,$ORIGIN".into()]);
            link.push(place.join("libshared.so").into());
        }
        let program = place.join(self.name);
        run(self.compiler, &link, &program);
        if !self.has_tables {
            split(&program);
        }
    }
}

/// Puts the debug information, and `.debug_frame` with it, into a file of its own: gdb finds it by the
/// link, and the program itself is left with frame pointers alone.
fn split(program: &Path) {
    let debug = program.with_extension("debug");
    let mut link = OsString::from("--add-gnu-debuglink=");
    link.push(&debug);
    for arguments in [
        [OsStr::new("--only-keep-debug"), program.as_os_str(), debug.as_os_str()],
        [OsStr::new("--strip-debug"), &link, program.as_os_str()],
    ] {
        let status = Command::new("objcopy").args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "objcopy does not split the program");
    }
}

/// A shared object, always with tables.
fn shared(place: &Path, name: &str, define: Option<&str>) {
    let mut arguments: Vec<OsString> = ALWAYS.iter().chain(&TABLES).map(Into::into).collect();
    arguments.extend(["-shared".into(), "-fPIC".into(), format!("-Wl,-soname,{name}").into()]);
    arguments.extend(define.map(Into::into));
    arguments.push(Path::new(FOLDER).join("shared.c").into());
    run("cc", &arguments, &place.join(name));
}

/// The C++ program.
fn exceptions(place: &Path) {
    let flags = [&ALWAYS[..], &TABLES, &["-fPIE", "-pie", "-DUNWIND_CXX"]].concat();
    let main = object("cc", "main.c", &flags, place, "cxx");
    let flags: Vec<_> = flags
        .iter()
        .map(|&flag| if flag == "-std=gnu11" { "-std=gnu++17" } else { flag })
        .collect();
    let mut arguments: Vec<OsString> = flags.iter().map(Into::into).collect();
    arguments.push(Path::new(FOLDER).join("exceptions.cc").into());
    arguments.extend([main.into(), "-pthread".into()]);
    run("c++", &arguments, &place.join("cxx"));
}

/// Compiles one source of a variant.
fn object(compiler: &str, source: &str, flags: &[&str], place: &Path, variant: &str) -> PathBuf {
    let object = place.join(format!("{variant}.{source}.o"));
    let mut arguments: Vec<OsString> = flags.iter().map(Into::into).collect();
    arguments.extend(["-I".into(), "../proto/lanes/c".into(), "-c".into()]);
    arguments.push(Path::new(FOLDER).join(source).into());
    run(compiler, &arguments, &object);
    object
}

/// `cc` is what the rest of the build script uses too.
fn program(compiler: &str) -> OsString {
    let chosen = if compiler == "cc" { std::env::var_os("CC") } else { None };
    chosen.unwrap_or_else(|| compiler.into())
}

fn is_installed(compiler: &str) -> bool {
    Command::new(program(compiler)).arg("--version").output().is_ok()
}

fn run(compiler: &str, arguments: &[impl AsRef<OsStr>], output: &Path) {
    let status = Command::new(program(compiler)).args(arguments).arg("-o").arg(output).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} failed on {}: {status}", output.display()),
        Err(error) => panic!("no compiler `{compiler}`: {error}"),
    }
}
