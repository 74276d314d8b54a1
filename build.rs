//! Gives the shared library its name and keeps it mapped once loaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Programs that are linked to one version run with every later one that is compatible with it.
    let abi = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => {
            // ONNX Runtime keeps threads and thread-local destructors; unmapping the library under them would
            // crash a host that calls dlclose.
            println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libblaze.so.{abi}");
        }
        Ok("macos") => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libblaze.{abi}.dylib"),
        _ => {}
    }
}
