//! Tests of loggers as the engine uses them.

use super::*;
use crate::error::Status;
use std::sync::Mutex;

type Lines = Arc<Mutex<Vec<(Level, String, String, Option<String>)>>>;

/// A logger to a callback, at this level, and what it got.
fn collecting(level: LevelFilter) -> (Logger, Lines) {
    let logger =
        Logger::new(|settings| (settings.level, settings.target) = (level, Target::Callback)).unwrap();
    let lines = Lines::default();
    logger.set_callback(Some(collector(&lines))).unwrap();
    (logger, lines)
}

fn collector(lines: &Lines) -> Callback {
    let lines = Arc::clone(lines);
    Box::new(move |record| {
        assert!(record.time_ns > 1_700_000_000_000_000_000);
        let fields = record.fields.map(str::to_owned);
        lines.lock().unwrap().push((record.level, record.module.into(), record.message.into(), fields));
    })
}

fn taken(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap().drain(..).map(|(_, module, message, _)| format!("{module} {message}")).collect()
}

#[test]
fn a_level_lets_through_itself_and_worse() {
    let to =
        |level, target| Logger::new(|settings| (settings.level, settings.target) = (level, target)).unwrap();
    let logger = to(LevelFilter::Warn, Target::Stderr);
    assert!(logger.enabled(Level::Error, "model") && logger.enabled(Level::Warn, "model"));
    assert!(!logger.enabled(Level::Info, "model"));
    assert!(!to(LevelFilter::Trace, Target::None).enabled(Level::Error, "model"));
    assert!(!to(LevelFilter::Off, Target::Stderr).enabled(Level::Error, "model"));
    let logger = to(LevelFilter::Trace, Target::Callback);
    assert!(logger.enabled(Level::Error, "model"), "the first callback gets it");
    logger.set_callback(None).unwrap();
    assert!(!logger.enabled(Level::Error, "model"), "there is none");
    assert!(!Logger::new(|_| ()).unwrap().enabled(Level::Error, "model"), "silent by default");
}

#[test]
fn the_first_callback_gets_what_was_said_before_it() {
    let lines = Lines::default();
    let logger = Logger::new(|settings| {
        settings.target = Target::Callback;
        settings.rate.per_second = 0;
    })
    .unwrap();
    for number in 0..2000_u64 {
        logger.with(&[("number", number.into())]).warn("model", format_args!("{number}"));
    }
    logger.set_callback(Some(collector(&lines))).unwrap();
    logger.warn("route", format_args!("later"));
    let taken = std::mem::take(&mut *lines.lock().unwrap());
    assert_eq!(taken.len(), 1025);
    assert_eq!(taken[7], (Level::Warn, "model".into(), "7".into(), Some(r#"{"number":7}"#.into())));
    assert_eq!(taken[1024].2, "later");
    assert_eq!(taken[1024].3.as_deref(), Some(r#"{"lost":976}"#));
    let other = Lines::default();
    logger.set_callback(Some(collector(&other))).unwrap();
    assert!(other.lock().unwrap().is_empty());
}

#[test]
fn modules_have_levels_of_their_own() {
    let (logger, lines) = collecting(LevelFilter::Warn);
    logger.info("model", format_args!("1"));
    logger
        .configure(|settings| {
            settings.modules.insert("model".into(), LevelFilter::Debug);
            settings.modules.insert("route".into(), LevelFilter::Off);
        })
        .unwrap();
    logger.debug("model", format_args!("2"));
    logger.log(Level::Trace, "model", format_args!("3"));
    logger.error("route", format_args!("4"));
    logger.info("memory", format_args!("5"));
    logger.warn("memory", format_args!("6"));
    logger.clone().warn("nobody knows this", format_args!("7"));
    assert_eq!(taken(&lines), ["model 2", "memory 6", "other 7"]);
    logger.configure(|settings| settings.modules.clear()).unwrap();
    logger.debug("model", format_args!("8"));
    logger.error("route", format_args!("9"));
    assert_eq!(taken(&lines), ["route 9"]);
}

#[test]
fn nothing_is_formatted_that_nobody_reads() {
    struct Formatted<'a>(&'a std::cell::Cell<u32>);
    impl fmt::Display for Formatted<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.set(self.0.get() + 1);
            f.write_str("x")
        }
    }
    let times = std::cell::Cell::new(0);
    Logger::new(|_| ()).unwrap().error("model", format_args!("{}", Formatted(&times)));
    let (logger, lines) = collecting(LevelFilter::Warn);
    logger.info("model", format_args!("{}", Formatted(&times)));
    assert_eq!(times.get(), 0);
    logger.configure(|settings| (settings.rate.per_second, settings.rate.burst) = (1, Some(2))).unwrap();
    for _ in 0..100 {
        logger.with(&[("model", "m".into())]).warn("model", format_args!("{}", Formatted(&times)));
    }
    assert!((2..10).contains(&times.get()), "{} of 100 were formatted", times.get());
    assert_eq!(taken(&lines).len(), times.get() as usize);
}

#[test]
fn too_many_lines_are_dropped_and_their_number_is_told() {
    let (logger, lines) = collecting(LevelFilter::Info);
    logger.configure(|settings| (settings.rate.per_second, settings.rate.burst) = (1, Some(2))).unwrap();
    (0..100).for_each(|_| logger.warn("model", format_args!("flood")));
    logger.error("model", format_args!("not silenced"));
    logger.warn("route", format_args!("nor is this"));
    logger.configure(|settings| settings.rate.per_second = 0).unwrap();
    logger.with(&[("model", "m:1".into())]).warn("model", format_args!("after"));
    let lines = lines.lock().unwrap();
    let told = |at: usize| (lines[at].2.as_str(), lines[at].3.as_deref());
    assert_eq!(told(1), ("flood", None));
    assert_eq!(told(2), ("not silenced", None));
    assert_eq!(told(3), ("nor is this", None));
    assert_eq!(told(4), ("after", Some(r#"{"model":"m:1","dropped":98}"#)));
}

#[test]
fn a_callback_that_logs_or_changes_the_log_does_not_wait_for_itself() {
    let (logger, lines) = collecting(LevelFilter::Info);
    let (same, inner, collect) = (logger.clone(), Arc::clone(&lines), collector(&lines));
    logger
        .set_callback(Some(Box::new(move |record| {
            collect(record);
            same.error("model", format_args!("from inside"));
            assert_eq!(same.configure(|_| ()).unwrap_err().status, Status::InvalidState);
            assert_eq!(same.set_callback(None).unwrap_err().status, Status::InvalidState);
            inner.lock().unwrap().push((Level::Info, "checked".into(), String::new(), None));
        })))
        .unwrap();
    logger.info("model", format_args!("1"));
    logger.set_callback(None).unwrap();
    logger.info("model", format_args!("2"));
    assert_eq!(taken(&lines), ["model 1", "checked "]);
    logger.set_callback(Some(collector(&lines))).unwrap();
    logger.info("model", format_args!("3"));
    logger.close();
    logger.error("model", format_args!("4"));
    assert_eq!(taken(&lines), ["model 3"]);
}

#[test]
fn a_configuration_that_fails_changes_nothing() {
    let (logger, lines) = collecting(LevelFilter::Info);
    let failed = |change: &dyn Fn(&mut Settings)| logger.configure(change).unwrap_err();
    let error = failed(&|settings| (settings.target, settings.level) = (Target::File, LevelFilter::Off));
    assert!(error.message.starts_with("file.path: needed"), "{error}");
    let error = failed(&|settings| {
        settings.target = Target::File;
        settings.file.path = Some("/nowhere/at all/log".into());
    });
    assert!(error.message.starts_with("file.path: /nowhere/at all/log: "), "{error}");
    let error = failed(&|settings| (settings.target, settings.global) = (Target::Facade, true));
    assert!(error.message.starts_with("global: "), "{error}");
    logger.info("model", format_args!("1"));
    assert_eq!(taken(&lines), ["model 1"]);
}

/// The only test of it: a process has one.
#[test]
fn the_global_logger_belongs_to_one_engine_at_a_time() {
    log::error!("nobody hears this");
    let (first, lines) = collecting(LevelFilter::Info);
    first.configure(|settings| settings.global = true).unwrap();
    log::info!(target: "onnxruntime", "1");
    log::debug!(target: "onnxruntime", "2");
    log::info!(target: "some::crate", "3");
    assert_eq!(lines.lock().unwrap()[1].3.as_deref(), Some(r#"{"target":"some::crate"}"#));
    assert_eq!(taken(&lines), ["onnxruntime 1", "other 3"]);
    let (second, others) = collecting(LevelFilter::Info);
    let error = second.configure(|settings| settings.global = true).unwrap_err();
    assert!(error.message.starts_with("global: another engine"), "{error}");
    first.configure(|settings| settings.level = LevelFilter::Debug).unwrap();
    log::debug!(target: "onnxruntime", "4");
    assert_eq!(taken(&lines), ["onnxruntime 4"]);
    first.close();
    log::error!("nobody hears this either");
    second.configure(|settings| settings.global = true).unwrap();
    log::info!(target: "onnxruntime", "5");
    drop(second);
    log::error!("nobody again");
    assert_eq!((taken(&lines).len(), taken(&others)), (0, vec!["onnxruntime 5".to_owned()]));
    first.configure(|settings| settings.global = true).unwrap();
}

#[test]
fn files_are_written_in_both_formats_and_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let logger = Logger::new(|settings| {
        settings.target = Target::File;
        settings.file.path = Some(path.to_string_lossy().into_owned());
    })
    .unwrap();
    logger.with(&[("model", "m:1".into())]).warn("model", format_args!("text"));
    std::fs::rename(&path, directory.path().join("moved")).unwrap();
    logger.configure(|settings| settings.format = Format::Json).unwrap();
    logger.with(&[("bytes", 7.into())]).error("memory", format_args!("json"));
    let text = std::fs::read_to_string(directory.path().join("moved")).unwrap();
    assert!(text.ends_with("Z WARN blaze::model text model=m:1\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        (&json["level"], &json["module"], &json["bytes"]),
        (&"error".into(), &"memory".into(), &7.into())
    );
}
