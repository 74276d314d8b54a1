//! Parts that a build may leave out, by Cargo features.
//!
//! Each is a constant that the compiler knows: exports and configuration refuse what is left out, and what nothing reaches
//! any more is not in the library. The ABI stays as it is.

/// A part, which a build has or not.
pub struct Feature {
    /// The Cargo feature.
    pub name: &'static str,
    pub built: bool,
}

/// Backends of hosts and of plugins, models that advance by steps, and all that is in the memory of devices.
pub const PLUGINS: Feature = Feature { name: "plugins", built: cfg!(feature = "plugins") };
/// Profiles, their reports, and advice.
pub const PROFILER: Feature = Feature { name: "profiler", built: cfg!(feature = "profiler") };
/// Execution providers of ONNX Runtime's besides the CPU's.
pub const PROVIDERS: Feature = Feature { name: "providers", built: cfg!(feature = "providers") };
/// Directories of models with versions.
pub const REPOSITORY: Feature = Feature { name: "repository", built: cfg!(feature = "repository") };
/// Routes, and tenants' limits.
pub const ROUTER: Feature = Feature { name: "router", built: cfg!(feature = "router") };
/// Searching settings, offline and while the engine works.
pub const TUNING: Feature = Feature { name: "tuning", built: cfg!(feature = "tuning") };

impl Feature {
    /// What whoever asks for the part is told, if it is left out.
    pub fn missing(&self) -> String {
        format!("this build of Blaze has no {} (the Cargo feature \"{}\")", self.name, self.name)
    }
}
