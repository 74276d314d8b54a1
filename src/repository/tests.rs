//! What a repository is, by example.

use super::*;
use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// The SHA-256 of `abc`, from FIPS 180-2.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
/// The SHA-256 of a million times `a`, from the same.
const MILLION: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

struct Repository(TempDir);

impl Repository {
    /// Files and their text; directories are made as needed, and a path that ends with a slash is one.
    fn new(files: &[(&str, &str)]) -> Self {
        let repository = Repository(tempfile::tempdir().unwrap());
        for (path, text) in files {
            repository.write(path, text);
        }
        repository
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.path(path);
        match path.strip_suffix('/') {
            Some(_) => fs::create_dir_all(file).unwrap(),
            None => {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn link(&self, target: impl AsRef<Path>, path: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(target, self.path(path)).unwrap();
    }

    fn scan(&self) -> Vec<Entry> {
        scan(self.0.path()).unwrap()
    }

    /// The only model.
    fn entry(&self) -> Entry {
        let mut entries = self.scan();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }

    /// The only version of the only model.
    fn version(&self) -> Version {
        let mut entry = self.entry();
        assert_eq!(entry.problem, None);
        assert_eq!(entry.found.len(), 1, "{entry:?}");
        entry.found.remove(0)
    }

    /// What is wrong with the only version.
    fn error(&self) -> Error {
        let version = self.version();
        assert!(version.checksums.is_empty());
        version.config.unwrap_err()
    }

    /// What is wrong with the only model.
    fn problem(&self) -> Error {
        let entry = self.entry();
        let problem = entry.problem.unwrap();
        for version in entry.found {
            assert_eq!(version.config.unwrap_err(), problem);
        }
        problem
    }
}

fn numbers(entry: &Entry) -> Vec<u32> {
    entry.found.iter().map(|version| version.version).collect()
}

fn starts(error: &Error, status: Status, start: &str) {
    assert_eq!(error.status, status, "{error}");
    assert!(error.message.starts_with(start), "{error}");
}

#[test]
fn models_and_versions_are_directories() {
    let repository = Repository::new(&[
        ("digits/10/model.onnx", ""),
        ("digits/2/model.onnx", ""),
        ("digits/labels.txt", ""),
        ("digits/3", "a plain file"),
        ("digits/docs/", ""),
        (".git/1/model.onnx", ""),
        ("digits/.4/model.onnx", ""),
        ("README", ""),
        ("boxes/1/model.onnx", ""),
        ("empty/", ""),
    ]);
    let entries = repository.scan();
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["boxes", "digits", "empty"]);
    assert_eq!(numbers(&entries[1]), [2, 10]);
    assert!(entries[2].found.is_empty());
    assert!(entries.iter().all(|entry| entry.problem.is_none() && entry.versions == Policy::Newest));
    let config = entries[1].found[1].config.as_ref().unwrap();
    assert_eq!((config.full_name().as_str(), config.backend.as_str()), ("digits:10", "onnx"));
    assert_eq!(config.path.as_deref(), repository.path("digits/10/model.onnx").to_str());
    assert!(Repository::new(&[]).scan().is_empty());
}

#[test]
fn a_version_is_a_number_without_leading_zeros() {
    for (name, number) in [("1", 1), ("20261121", 20_261_121), ("4294967295", u32::MAX)] {
        assert_eq!(version_number(name), Some(number));
    }
    for name in
        ["0", "00", "01", "+1", "-1", "1.0", "v1", "", " 1", "١", "4294967296", "99999999999999999999999"]
    {
        assert_eq!(version_number(name), None, "{name}");
    }
    let repository =
        Repository::new(&[("m/0/model.onnx", ""), ("m/01/model.onnx", ""), ("m/4294967296/", "")]);
    assert!(repository.entry().found.is_empty());
}

#[test]
fn names_that_are_not_utf8_are_ignored() {
    let repository = Repository::new(&[("m/1/model.onnx", "")]);
    let odd = OsStr::from_bytes(b"\xff1");
    fs::create_dir(repository.0.path().join(odd)).unwrap();
    fs::create_dir(repository.path("m").join(odd)).unwrap();
    symlink("nowhere", repository.0.path().join(OsStr::from_bytes(b"\xfe"))).unwrap();
    assert!(repository.version().config.is_ok());
    fs::write(repository.path("m/1").join(odd), "").unwrap();
    assert!(repository.version().config.is_ok());
}

#[test]
fn a_name_that_no_model_may_have_is_a_problem() {
    let repository = Repository::new(&[("a:b/1/model.onnx", "")]);
    starts(&repository.problem(), Status::InvalidConfig, "a:b: name: must have");
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error_that_names_it() {
    let repository = Repository::new(&[("file", "")]);
    for path in ["gone", "file"] {
        let path = repository.path(path);
        starts(
            &scan(&path).unwrap_err(),
            Status::InvalidConfig,
            &format!("{} cannot be read", path.display()),
        );
    }
    starts(&scan(Path::new("")).unwrap_err(), Status::InvalidConfig, "");
}

#[test]
fn a_relative_directory_gives_absolute_paths() {
    let repository = Repository(tempfile::tempdir_in(".").unwrap());
    repository.write("m/1/model.onnx", "");
    let relative = Path::new(repository.0.path().file_name().unwrap());
    let entries = scan(relative).unwrap();
    let path = entries[0].found[0].config.clone().unwrap().path.unwrap();
    assert!(Path::new(&path).is_absolute() && Path::new(&path).is_file(), "{path}");
}

#[test]
fn a_versions_keys_win_over_its_models() {
    let repository = Repository::new(&[
        ("m/model.json", r#"{"lanes": 2, "batching": {"max_rows": 8, "max_delay_us": 7}, "warmup": false}"#),
        ("m/1/model.onnx", ""),
        ("m/2/model.onnx", ""),
        ("m/2/model.json", r#"{"batching": {"max_rows": 16}, "lanes": 3}"#),
    ]);
    let found = repository.entry().found;
    let [one, two] = [0, 1].map(|index: usize| found[index].config.clone().unwrap());
    assert_eq!(
        (one.lanes, one.batching.max_rows, one.batching.max_delay_us, one.warmup.enabled),
        (2, 8, 7, false)
    );
    // The whole `batching` is the version's: what it leaves out has its default.
    assert_eq!(
        (two.lanes, two.batching.max_rows, two.batching.max_delay_us, two.warmup.enabled),
        (3, 16, 200, false)
    );
}

#[test]
fn only_onnx_must_have_a_model_file() {
    let repository = Repository::new(&[("m/1/", "")]);
    starts(&repository.error(), Status::ModelNotFound, "m/1/model.onnx: cannot be read: ");
    repository.write("m/model.json", r#"{"backend": "mock", "mock": {"compute": "echo"}}"#);
    let config = repository.version().config.unwrap();
    assert_eq!((config.backend.as_str(), config.path), ("mock", None));
    repository.write("m/1/model.onnx", "");
    assert!(repository.version().config.unwrap().path.is_some());
    fs::remove_file(repository.path("m/1/model.onnx")).unwrap();
    repository.write("m/1/model.onnx/", "");
    starts(&repository.error(), Status::ModelNotFound, "m/1/model.onnx: is not a file");
}

#[test]
fn errors_name_the_file_and_the_key_in_it() {
    let own = |text: &str| Repository::new(&[("m/2/model.onnx", ""), ("m/2/model.json", text)]).error();
    for (text, message) in [
        (r#"{"batching": {"max_rows": 0}}"#, "m/2/model.json: batching.max_rows: must be"),
        (r#"{"batching": {"rows": 1}}"#, "m/2/model.json: batching.rows: unknown field"),
        (r#"{"lane": 1}"#, "m/2/model.json: lane: unknown field"),
        (r#"{"lanes": "two"}"#, "m/2/model.json: lanes: invalid type"),
        (r#"{"backend": "mock", "mock": {"inputs": [{}]}}"#, "m/2/model.json: mock.inputs[0]: missing field"),
        (r#"{"batching": [8]}"#, "m/2/model.json: batching: "),
        (r#"{"lanes": 1"#, "m/2/model.json: EOF"),
        (r#"{} x"#, "m/2/model.json: trailing"),
        ("", "m/2/model.json: EOF"),
        ("[]", "m/2/model.json: must be an object"),
        (r#"{"name": "x"}"#, "m/2/model.json: name: must be left out: it comes from the directory"),
        (r#"{"version": 2}"#, "m/2/model.json: version: must be left out: it comes from the directory"),
        (r#"{"path": null}"#, "m/2/model.json: path: must be left out: it comes from the directory"),
        (r#"{"versions": "all"}"#, "m/2/model.json: versions: belongs into"),
    ] {
        starts(&own(text), Status::InvalidConfig, message);
    }
    let shared = |text: &str| Repository::new(&[("m/2/model.onnx", ""), ("m/model.json", text)]);
    for (text, message) in [
        (r#"{"name": "x"}"#, "m/model.json: name: must be left out"),
        (r#"{"sha256": "00"}"#, "m/model.json: sha256: belongs into"),
        ("{", "m/model.json: EOF"),
    ] {
        starts(&shared(text).problem(), Status::InvalidConfig, message);
    }
    // A wrong value that all share is each version's matter, since a version may have its own.
    let repository = shared(r#"{"lanes": 0}"#);
    starts(&repository.error(), Status::InvalidConfig, "m/model.json: lanes: must be");
    repository.write("m/2/model.json", r#"{"lanes": 1}"#);
    assert!(repository.version().config.is_ok());
}

#[test]
fn a_model_json_that_cannot_be_read_does_not_mean_the_defaults() {
    for make in [
        |r: &Repository, path: &str| r.write(&format!("{path}/"), ""),
        |r: &Repository, path: &str| r.link("nowhere", path),
        |r: &Repository, path: &str| r.link("model.json", path),
        |r: &Repository, path: &str| fs::write(r.path(path), b"{\"backend\": \"\xff\"}").unwrap(),
        |r: &Repository, path: &str| fs::write(r.path(path), vec![b' '; (1 << 20) + 1]).unwrap(),
        |r: &Repository, path: &str| {
            let made = std::process::Command::new("mkfifo").arg(r.path(path)).status().unwrap();
            assert!(made.success());
        },
    ] {
        let repository = Repository::new(&[("m/1/model.onnx", "")]);
        make(&repository, "m/1/model.json");
        starts(&repository.error(), Status::InvalidConfig, "m/1/model.json: ");
        let repository = Repository::new(&[("m/1/model.onnx", "")]);
        make(&repository, "m/model.json");
        starts(&repository.problem(), Status::InvalidConfig, "m/model.json: ");
    }
}

#[test]
fn a_model_says_which_versions_are_served() {
    let policy = |value: &str| {
        let text = format!(r#"{{"versions": {value}}}"#);
        Repository::new(&[("m/1/model.onnx", ""), ("m/model.json", &text)])
    };
    for (value, expected) in [
        (r#""newest""#, Policy::Newest),
        ("null", Policy::Newest),
        (r#""all""#, Policy::All),
        ("[3, 1, 3]", Policy::These(vec![1, 3])),
        ("[4294967295]", Policy::These(vec![u32::MAX])),
    ] {
        let entry = policy(value).entry();
        assert_eq!(entry.versions, expected);
        assert!(entry.problem.is_none() && entry.found[0].config.is_ok());
    }
    for value in [r#""latest""#, "1", "[]", "[0]", "[1.5]", r#"["1"]"#, "[4294967296]", "[-1]", "{}"] {
        let repository = policy(value);
        starts(&repository.problem(), Status::InvalidConfig, "m/model.json: versions: must be \"newest\"");
        assert_eq!(numbers(&repository.entry()), [1]);
    }
}

fn with_sums(sha256: &str) -> Repository {
    let text = format!(r#"{{"sha256": {sha256}}}"#);
    Repository::new(&[("m/1/model.onnx", "abc"), ("m/1/model.json", &text)])
}

#[test]
fn files_are_compared_with_their_sums() {
    for sum in [ABC.to_owned(), ABC.to_uppercase()] {
        let version = with_sums(&format!("\"{sum}\"")).version();
        assert_eq!(version.checksums.len(), 1);
        assert!(version.checksums[0].0.ends_with("m/1/model.onnx") && version.checksums[0].0.is_absolute());
    }
    let repository = with_sums(&format!("\"{ABC}\""));
    let version = repository.version();
    version.verify(&|| true).unwrap();
    repository.write("m/1/model.onnx", &"a".repeat(1_000_000));
    let error = version.verify(&|| true).unwrap_err();
    starts(&error, Status::ModelInvalid, "m/1/model.onnx: its SHA-256 is ");
    assert!(error.message.contains(MILLION) && error.message.contains(ABC), "{error}");
    fs::remove_file(repository.path("m/1/model.onnx")).unwrap();
    starts(&version.verify(&|| true).unwrap_err(), Status::ModelNotFound, "m/1/model.onnx: cannot be read: ");
    Repository::new(&[("m/1/model.onnx", "")]).version().verify(&|| false).unwrap();
}

#[test]
fn several_files_may_have_sums() {
    let sums = format!(r#"{{"model.onnx": "{ABC}", "data/weights.bin": "{MILLION}"}}"#);
    let repository = with_sums(&sums);
    let version = repository.version();
    assert_eq!(version.checksums.len(), 2);
    starts(&version.verify(&|| true).unwrap_err(), Status::ModelNotFound, "m/1/data/weights.bin: ");
    repository.write("m/1/data/weights.bin", &"a".repeat(1_000_000));
    version.verify(&|| true).unwrap();
    fs::remove_file(repository.path("m/1/data/weights.bin")).unwrap();
    repository.write("m/1/data/weights.bin/", "");
    starts(
        &version.verify(&|| true).unwrap_err(),
        Status::ModelNotFound,
        "m/1/data/weights.bin: is not a file",
    );
}

#[test]
fn sums_are_64_hexadecimal_digits_of_files_in_the_directory() {
    for (sha256, message) in [
        (r#""abc""#.to_owned(), "sha256: must be 64"),
        (format!("\"{}\"", "g".repeat(64)), "sha256: must be 64"),
        (format!("\"{}\"", "é".repeat(32)), "sha256: must be 64"),
        (format!("\"+{}\"", &ABC[1..]).replace(&ABC[1..2], "+"), "sha256: must be 64"),
        ("5".to_owned(), "sha256: must be 64"),
        ("{}".to_owned(), "sha256: must be 64"),
        (r#"{"model.onnx": 5}"#.to_owned(), "sha256.model.onnx: must be 64"),
        (format!(r#"{{"../1/model.onnx": "{ABC}"}}"#), "sha256.../1/model.onnx: must be a file's name"),
        (format!(r#"{{"/etc/passwd": "{ABC}"}}"#), "sha256./etc/passwd: must be a file's name"),
        (format!(r#"{{"": "{ABC}"}}"#), "sha256: must be a file's name"),
        (format!(r#"{{".": "{ABC}"}}"#), "sha256..: must be a file's name"),
    ] {
        starts(&with_sums(&sha256).error(), Status::InvalidConfig, &format!("m/1/model.json: {message}"));
    }
}

#[test]
fn checking_sums_stops_when_told_to() {
    let repository = with_sums(&format!("\"{MILLION}\""));
    repository.write("m/1/model.onnx", &"a".repeat(5 << 20));
    let asked = Cell::new(0);
    let keep_on = || asked.replace(asked.get() + 1) < 2;
    starts(&repository.version().verify(&keep_on).unwrap_err(), Status::Cancelled, "m/1/model.onnx: ");
    assert_eq!(asked.get(), 3);
}

#[test]
fn a_stamp_stays_while_nothing_changes_and_changes_with_every_file() {
    let repository =
        Repository::new(&[("m/1/model.onnx", "abc"), ("m/1/data/weights", "abc"), ("m/2/model.onnx", "abc")]);
    let stamps = || -> [Stamp; 2] {
        let found = repository.entry().found;
        [found[0].stamp, found[1].stamp]
    };
    let mut last = stamps();
    assert_eq!(last, stamps());
    assert_ne!(last[0], last[1]);
    let mut changed = |what: &str, expected: [bool; 2]| {
        let now = stamps();
        assert_eq!([now[0] != last[0], now[1] != last[1]], expected, "{what}");
        assert_eq!(now, stamps(), "{what}");
        last = now;
    };
    repository.write("m/1/model.onnx", "abcd");
    changed("rewritten to another size", [true, false]);
    let file = fs::File::options().write(true).open(repository.path("m/1/model.onnx")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    changed("rewritten at another time", [true, false]);
    let times = fs::metadata(repository.path("m/1/model.onnx")).unwrap().modified().unwrap();
    repository.write("new", "ABCD");
    fs::File::options().write(true).open(repository.path("new")).unwrap().set_modified(times).unwrap();
    fs::rename(repository.path("new"), repository.path("m/1/model.onnx")).unwrap();
    changed("replaced, with the same size and time", [true, false]);
    repository.write("m/1/data/weights", "abcd");
    changed("a file further down", [true, false]);
    fs::rename(repository.path("m/1/data/weights"), repository.path("m/1/data/w")).unwrap();
    changed("renamed", [true, false]);
    repository.write("m/1/model.json", "{}");
    changed("a new file", [true, false]);
    fs::remove_file(repository.path("m/1/model.json")).unwrap();
    changed("a file less", [true, false]);
    repository.write("m/model.json", "{}");
    changed("what both share, new", [true, true]);
    repository.write("m/model.json", "{ }");
    changed("what both share, rewritten", [true, true]);
    fs::remove_file(repository.path("m/model.json")).unwrap();
    changed("what both share, gone", [true, true]);
    repository.write("m/labels", "x");
    repository.write("m/3/model.onnx", "x");
    changed("what is not theirs", [false, false]);
}

#[test]
fn links_are_followed_and_what_they_lead_to_counts() {
    let elsewhere = Repository::new(&[
        ("a/model.onnx", "abc"),
        ("b/model.onnx", "abc"),
        ("model/2/model.onnx", "abc"),
        ("c.onnx", "abc"),
    ]);
    let repository = Repository::new(&[]);
    repository.link(elsewhere.path("a"), "m/1");
    let first = repository.version();
    // The path goes through the link: it is what is in the repository.
    assert_eq!(first.config.unwrap().path.as_deref(), repository.path("m/1/model.onnx").to_str());
    elsewhere.write("a/model.onnx", "abcd");
    let rewritten = repository.version().stamp;
    assert_ne!(first.stamp, rewritten);
    repository.link(elsewhere.path("b"), "new");
    fs::rename(repository.path("new"), repository.path("m/1")).unwrap();
    let swapped = repository.version().stamp;
    assert_ne!(rewritten, swapped);

    let repository = Repository::new(&[]);
    repository.link(elsewhere.path("c.onnx"), "m/1/model.onnx");
    let stamp = repository.version().stamp;
    assert!(repository.version().config.is_ok());
    elsewhere.write("new", "abc");
    fs::rename(elsewhere.path("new"), elsewhere.path("c.onnx")).unwrap();
    assert_ne!(repository.version().stamp, stamp);

    let repository = Repository::new(&[]);
    repository.link(elsewhere.path("model"), "m");
    assert!(repository.version().config.is_ok());
    let whole = Repository::new(&[]);
    whole.link(repository.0.path(), "current");
    assert_eq!(scan(&whole.path("current")).unwrap()[0].found.len(), 1);
}

#[test]
fn links_that_lead_nowhere_are_problems_of_what_they_stand_for() {
    let repository = Repository::new(&[("m/1/model.onnx", "")]);
    repository.link("nowhere", "m/2");
    repository.link("3", "m/3");
    repository.link("nowhere", "m/4/model.onnx");
    let entry = repository.entry();
    assert_eq!(numbers(&entry), [1, 2, 3, 4]);
    assert!(entry.problem.is_none() && entry.found[0].config.is_ok());
    for (index, message) in [(1, "m/2: cannot"), (2, "m/3: cannot"), (3, "m/4/model.onnx: cannot")] {
        starts(entry.found[index].config.as_ref().unwrap_err(), Status::ModelNotFound, message);
    }
    repository.write("m/nowhere/model.onnx", "");
    let mended = &repository.entry().found[1];
    assert!(mended.config.is_ok() && mended.stamp != entry.found[1].stamp);

    // Even with a backend that needs no file.
    let repository = Repository::new(&[("m/model.json", r#"{"backend": "mock"}"#)]);
    repository.link("nowhere", "m/1/model.onnx");
    starts(&repository.error(), Status::ModelNotFound, "m/1/model.onnx: cannot");

    let repository = Repository::new(&[]);
    repository.link("nowhere", "m");
    starts(&repository.problem(), Status::ModelNotFound, "m: cannot be read: ");
    assert!(repository.entry().found.is_empty());
}

#[test]
fn links_in_circles_and_deep_directories_end() {
    let repository = Repository::new(&[("m/1/model.onnx", "")]);
    for index in 0..20 {
        repository.link(".", &format!("m/1/again{index}"));
    }
    repository.link(repository.0.path(), "m/1/up");
    repository.write(&format!("m/1/{}file", "d/".repeat(500)), "");
    let version = repository.version();
    assert!(version.config.is_ok());
    assert_eq!(version.stamp, repository.version().stamp);
    assert_eq!(format!("{:?}", version.stamp).len(), "Stamp()".len() + 64);
}
