//! Repositories: directories with hostile names, versions, links and `model.json`, scanned and served by a real engine.
#![no_main]

use arbitrary::Arbitrary;
use blaze_fuzz::*;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::ptr::null_mut;

#[derive(Arbitrary, Debug)]
struct Repository<'a> {
    first: Vec<Entry<'a>>,
    /// Changed before the repository is read again.
    then: Vec<Entry<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Entry<'a> {
    model: Name<'a>,
    version: Option<Name<'a>>,
    what: What<'a>,
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Usual(u8),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum What<'a> {
    Directory,
    /// A model for the mock backend, with keys of its own.
    Mock(&'a str),
    Settings(&'a [u8]),
    Model(&'a [u8]),
    File(&'a str, &'a [u8]),
    /// To somewhere in the repository, or nowhere.
    Link(u8),
    Remove,
    Fifo,
    Unreadable,
}

const NAMES: [&str; 16] = [
    "a",
    "b",
    "1",
    "2",
    "3",
    "4294967295",
    "4294967296",
    "01",
    "-1",
    ".hidden",
    "a:1",
    "ä",
    "model.json",
    "..",
    ".",
    "a b",
];
const LINKS: [&str; 8] = [".", "..", "a", "../a", "1", "../1", "model.json", "nowhere"];

impl Name<'_> {
    /// One component of a path: nothing outside the repository is touched.
    fn component(&self) -> Option<String> {
        let name = match self {
            Name::Usual(index) => NAMES[usize::from(*index) % NAMES.len()],
            Name::Any(name) => name.get(..name.len().min(300)).unwrap_or("x"),
        };
        let mut components = Path::new(name).components();
        let plain = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
        (plain && !name.contains('\0')).then(|| name.to_owned())
    }
}

fn write(root: &Path, entry: &Entry<'_>) -> Option<()> {
    let mut path = root.join(entry.model.component()?);
    if let Some(version) = &entry.version {
        path = path.join(version.component()?);
    }
    // Links may lead out of it, but nothing is written through them.
    let real = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|real| real.starts_with(root));
    let inside = |name: &str| {
        fs::create_dir_all(&path).ok()?;
        (real(&path) && !path.join(name).is_symlink()).then(|| path.join(name))
    };
    // What was there goes first: to open a pipe would wait for its reader.
    let put = |name: &str, bytes: &[u8]| {
        let file = inside(name)?;
        let _ = fs::remove_file(&file);
        fs::write(file, bytes).ok()
    };
    match &entry.what {
        What::Directory => fs::create_dir_all(&path).ok(),
        What::Mock(keys) => {
            let json = format!(
                r#"{{"backend": "mock", "warmup": false{}{keys}}}"#,
                if keys.is_empty() { "" } else { "," }
            );
            put("model.json", json.as_bytes())
        }
        What::Settings(bytes) => put("model.json", bytes),
        What::Model(bytes) => put("model.onnx", bytes),
        What::File(name, bytes) => put(&Name::Any(name).component()?, bytes),
        What::Link(to) => {
            let parent = path.parent()?;
            fs::create_dir_all(parent).ok()?;
            real(&parent.to_path_buf()).then_some(())?;
            symlink(LINKS[usize::from(*to) % LINKS.len()], &path).ok()
        }
        What::Remove => match path.is_symlink() || path.is_file() {
            true => fs::remove_file(&path).ok(),
            false => real(&path).then(|| fs::remove_dir_all(&path).ok()).flatten(),
        },
        What::Fifo => {
            let name = c_string(inside("model.json")?.as_os_str().as_encoded_bytes());
            // SAFETY: the name is NUL-terminated.
            unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
            Some(())
        }
        What::Unreadable => {
            use std::os::unix::fs::PermissionsExt;
            real(&path).then(|| fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).ok()).flatten()
        }
    }
}

/// What would be right to take long, or much memory: a mock that sleeps or hangs, or whose tensors are large.
fn takes_long(config: &blaze::config::ModelConfig) -> bool {
    let Some(mock) = &config.mock else { return false };
    let large = |tensor: &blaze::config::MockTensor| {
        tensor.shape.iter().any(|size| matches!(size, blaze::config::MockDim::Fixed(size) if *size > 64))
            || tensor.shape.len() > 4
    };
    mock.latency_us > 100
        || mock.load_latency_us > 100
        || mock.faults.iter().any(|fault| {
            matches!(
                fault.kind,
                blaze::config::FaultKind::Hang
                    | blaze::config::FaultKind::Slow
                    | blaze::config::FaultKind::LoadPanic
            )
        })
        || mock.inputs.iter().chain(&mock.outputs).any(large)
}

/// Reads it, and says whether an engine should.
fn scan(root: &Path) -> bool {
    let entries = blaze::repository::scan(root).expect("the directory is there");
    let again = blaze::repository::scan(root).expect("the directory is there");
    assert_eq!(entries.len(), again.len());
    let mut quick = true;
    for (entry, again) in entries.iter().zip(&again) {
        assert_eq!(entry.found.len(), again.found.len());
        for (version, again) in entry.found.iter().zip(&again.found) {
            assert_eq!(version.stamp, again.stamp, "nothing has changed");
            if let Ok(config) = &version.config {
                assert_eq!(config.name, entry.name);
                assert_eq!(config.version(), version.version);
                quick &= !takes_long(config) && config.lanes <= 16 && !config.warmup.enabled;
                quick &= config.backend == "mock";
            }
            let _ = version.verify(&|| true);
        }
    }
    quick
}

fuzz_target!(|repository: Repository<'_>| {
    if repository.first.len() + repository.then.len() > 64 {
        return;
    }
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("a path");
    for entry in &repository.first {
        write(&root, entry);
    }
    let quick = scan(&root);
    let quick = quick
        && {
            let config = c_string(
            format!(
                r#"{{"threads": 0, "memory": {{"budget_bytes": 67108864, "tune_heap": false}}, "repository": {{"directory": {}}}}}"#,
                serde_json::Value::from(root.to_str().expect("a path in UTF-8"))
            )
            .as_bytes(),
        );
            if let Ok(engine) = engine(&config) {
                for entry in &repository.then {
                    write(&root, entry);
                }
                // SAFETY: all pointers are valid during the calls.
                unsafe {
                    if scan(&root) {
                        let mut error = no_error();
                        let status = blaze_repository_rescan(engine, null_mut(), 0, null_mut(), &mut error);
                        check(status, &error);
                    }
                    let health =
                        text(|to, room, needed| blaze_health_json(engine, to, room, needed)).expect("a text");
                    serde_json::from_str::<serde_json::Value>(&health).expect("JSON");
                    text(|to, room, needed| {
                        blaze_metrics_text(engine, BLAZE_METRICS_PROMETHEUS, to, room, needed)
                    });
                    blaze_engine_destroy(engine);
                }
            }
            true
        };
    std::hint::black_box(quick);
});
