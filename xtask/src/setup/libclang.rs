//! libclang reads PostgreSQL's headers when pgrx is built.

use std::path::{Path, PathBuf};

/// Folders of libclang, which finds its own C headers relative to them: some of those that bindgen searches.
const PLACES: [&str; 6] = [
    "/usr/lib/llvm-*/lib",
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/homebrew/opt/llvm/lib",
    "/Library/Developer/CommandLineTools/usr/lib",
];

/// Whether pgrx will find libclang and libclang its headers.
pub fn is_installed() -> bool {
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    let places = PLACES.iter().flat_map(|place| glob::glob(place).expect("a valid pattern").flatten());
    named.into_iter().chain(places).any(|dir| has_library(&dir)) && has_headers()
}

fn has_library(dir: &Path) -> bool {
    ["libclang.so", "libclang-*.so*", "libclang.so.*", "libclang.dylib"].iter().any(|name| exists(&dir.join(name)))
}

/// The headers that belong to the compiler, such as stddef.h: Debian has them in a package of their own.
fn has_headers() -> bool {
    let dirs = ["/usr/lib/llvm-*/lib", "/usr/lib", "/usr/lib64", "/opt/homebrew/opt/llvm/lib"];
    let mac = Path::new("/Library/Developer/CommandLineTools/usr/lib/clang/*/include/stddef.h");
    dirs.iter().any(|dir| exists(&Path::new(dir).join("clang/*/include/stddef.h"))) || exists(mac)
}

fn exists(pattern: &Path) -> bool {
    let pattern = pattern.to_string_lossy();
    glob::glob(&pattern).is_ok_and(|mut found| found.any(|file| file.is_ok()))
}
