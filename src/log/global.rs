//! What the process says through the `log` facade, for the one engine that asks for it.

use super::sink::Sink;
use super::{Level, LevelFilter, MODULES, OTHER, module_index};
use crate::error::{Error, Result, Status};
use crate::sync::lock;
use std::sync::{Mutex, Weak};

/// Installed once, and for ever: a process has one global logger. It does nothing when its engine is gone.
struct Bridge {
    inner: Mutex<Inner>,
}

struct Inner {
    installed: bool,
    sink: Weak<Sink>,
}

static BRIDGE: Bridge = Bridge { inner: Mutex::new(Inner { installed: false, sink: Weak::new() }) };

/// Has the facade's lines go to this sink, up to a level.
pub fn claim(sink: &Weak<Sink>, level: LevelFilter) -> Result<()> {
    let mut inner = lock(&BRIDGE.inner);
    if !inner.sink.ptr_eq(sink) && inner.sink.strong_count() > 0 {
        return Err(taken("another engine has the process's global logger"));
    }
    if !inner.installed {
        log::set_logger(&BRIDGE).map_err(|_| taken("the process has a global logger already"))?;
        inner.installed = true;
    }
    inner.sink = Weak::clone(sink);
    set_level(level);
    Ok(())
}

/// Has them go nowhere, if they went to this sink.
pub fn release(sink: &Weak<Sink>) {
    let mut inner = lock(&BRIDGE.inner);
    if inner.sink.ptr_eq(sink) {
        inner.sink = Weak::new();
        set_level(LevelFilter::Off);
    }
}

fn taken(why: &str) -> Error {
    Error::new(Status::InvalidConfig, format!("global: {why}"))
}

fn set_level(level: LevelFilter) {
    log::set_max_level(match level {
        LevelFilter::Off => log::LevelFilter::Off,
        LevelFilter::Error => log::LevelFilter::Error,
        LevelFilter::Warn => log::LevelFilter::Warn,
        LevelFilter::Info => log::LevelFilter::Info,
        LevelFilter::Debug => log::LevelFilter::Debug,
        LevelFilter::Trace => log::LevelFilter::Trace,
    });
}

impl Bridge {
    fn with(&self, level: Level, work: impl FnOnce(&Sink)) {
        let sink = lock(&self.inner).sink.upgrade();
        if let Some(sink) = sink.filter(|sink| sink.may_pass(level)) {
            work(&sink);
        }
    }
}

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let (mut enabled, level) = (false, metadata.level());
        self.with(level, |sink| enabled = sink.passes(level, module_index(metadata.target())));
        enabled
    }

    fn log(&self, record: &log::Record<'_>) {
        let (level, target) = (record.level(), record.target());
        self.with(level, |sink| {
            let known = target != OTHER && MODULES.contains(&target);
            let field = [("target", target.into())];
            let fields = if known { &[] } else { &field[..] };
            sink.write(level, module_index(target), fields, *record.args());
        });
    }

    fn flush(&self) {}
}
