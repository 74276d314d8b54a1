//! What the clones of a logger share: the settings, and where lines go just now.

use super::file::RotatingFile;
use super::line::{Field, Line, Record};
use super::rate::Rate;
use super::{Format, Level, LevelFilter, MODULES, Settings, Target, global};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicU32, Mutex, Ordering, lock};
use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

/// A function of the host's. One call at a time.
pub type Callback = Box<dyn Fn(&Record<'_>) + Send>;

#[derive(Default)]
pub struct Sink {
    /// The least severe level that any module has, 0 while nothing is written: what everybody looks at first.
    most: AtomicU32,
    /// By module.
    levels: [AtomicU32; MODULES.len()],
    rate: Rate,
    /// Held while they are changed, before `output`.
    settings: Mutex<Settings>,
    output: Mutex<Output>,
}

#[derive(Default)]
struct Output {
    way: Way,
    format: Option<Format>,
    callback: Option<Callback>,
    early: Early,
    /// Lines that could not be written since one was.
    lost: u64,
    /// The line that is being written; kept for its memory.
    text: String,
}

/// Lines for a callback that is not set yet: an engine has them while it is being made, and loads its models.
enum Early {
    Kept(Vec<EarlyLine>),
    /// It has been set, if only to none.
    Over,
}

impl Default for Early {
    fn default() -> Self {
        Early::Kept(Vec::new())
    }
}

/// How many lines are kept at most.
const EARLY_LINES: usize = 1024;

struct EarlyLine {
    level: Level,
    module: String,
    message: String,
    fields: Option<String>,
    time_ns: u64,
}

impl EarlyLine {
    fn of(record: &Record<'_>) -> Self {
        EarlyLine {
            level: record.level,
            module: record.module.into(),
            message: record.message.into(),
            fields: record.fields.map(str::to_owned),
            time_ns: record.time_ns,
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            level: self.level,
            module: &self.module,
            message: &self.message,
            fields: self.fields.as_deref(),
            time_ns: self.time_ns,
        }
    }
}

#[derive(Default)]
enum Way {
    #[default]
    None,
    Stderr,
    File(RotatingFile),
    Callback,
    Facade,
}

thread_local! {
    /// Whether this thread is writing a line, or in a callback.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A thread that is writing a line.
struct Inside;

impl Inside {
    fn enter() -> Option<Inside> {
        INSIDE.with(|inside| !inside.replace(true)).then(|| Inside) // lazily: dropping one leaves
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

fn refuse_inside() -> Result<()> {
    if !INSIDE.with(Cell::get) {
        return Ok(());
    }
    Err(Error::new(Status::InvalidState, "the log cannot be changed from inside its own callback"))
}

impl Sink {
    /// Whether any module wants lines of this level.
    #[inline]
    pub fn may_pass(&self, level: Level) -> bool {
        level as u32 <= self.most.load(Ordering::Relaxed)
    }

    /// Whether a module's lines of this level are written.
    pub fn passes(&self, level: Level, module: usize) -> bool {
        self.may_pass(level) && level as u32 <= self.levels[module].load(Ordering::Relaxed)
    }

    pub fn configure(self: &Arc<Self>, change: impl FnOnce(&mut Settings)) -> Result<()> {
        refuse_inside()?;
        let mut settings = lock(&self.settings);
        let mut new = settings.clone();
        change(&mut new);
        // Before the file is opened, so that nobody renames it meanwhile.
        let mut output = lock(&self.output);
        let way = open(&new)?;
        let weak = Arc::downgrade(self);
        if new.global {
            global::claim(&weak, most(&new))?; // the last step that can fail
        } else if settings.global {
            global::release(&weak);
        }
        *settings = new;
        output.way = way;
        output.format = Some(settings.format);
        for (level, module) in self.levels.iter().zip(MODULES) {
            let own = settings.modules.get(module).copied().unwrap_or(settings.level);
            level.store(own as u32, Ordering::Relaxed);
        }
        self.rate.set(&settings.rate);
        self.publish(&settings, &output);
        Ok(())
    }

    pub fn set_callback(&self, callback: Option<Callback>) -> Result<()> {
        refuse_inside()?;
        let settings = lock(&self.settings);
        let mut output = lock(&self.output);
        let early = std::mem::replace(&mut output.early, Early::Over);
        if let (Some(callback), Early::Kept(lines)) = (&callback, early) {
            let _inside = Inside::enter();
            lines.iter().for_each(|line| callback(&line.record()));
        }
        output.callback = callback;
        self.publish(&settings, &output);
        Ok(())
    }

    /// Says what is to be written, after a change.
    fn publish(&self, settings: &Settings, output: &Output) {
        let silent = match output.way {
            Way::None => true,
            Way::Callback => output.callback.is_none() && matches!(output.early, Early::Over),
            Way::Stderr | Way::File(_) | Way::Facade => false,
        };
        self.most.store(if silent { 0 } else { most(settings) as u32 }, Ordering::Relaxed);
    }

    pub fn close(self: &Arc<Self>) {
        self.most.store(0, Ordering::Relaxed);
        if refuse_inside().is_err() {
            return; // against the rules, but no reason to wait for ever
        }
        let mut settings = lock(&self.settings);
        if std::mem::replace(&mut settings.global, false) {
            global::release(&Arc::downgrade(self));
        }
        *lock(&self.output) = Output::default();
    }

    /// Writes a line, if its level passes and it is not one too many.
    #[cold]
    pub fn write(
        &self,
        level: Level,
        module: usize,
        fields: &[(&str, Field<'_>)],
        message: fmt::Arguments<'_>,
    ) {
        if !self.passes(level, module) {
            return;
        }
        // A line that is said while one is written, by the host's code, would wait for itself.
        let Some(_inside) = Inside::enter() else { return };
        let Some(dropped) = self.rate.take(module, level, now_ns()) else { return };
        let message = message.to_string();
        let mut output = lock(&self.output);
        if !self.passes(level, module) {
            return; // not any more
        }
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (module, lost) = (MODULES[module], output.lost);
        let line = Line { time_ns, level, module, message: &message, fields, dropped, lost };
        if matches!(output.way, Way::Facade) {
            drop(output); // the host's logger may do anything
            let mut text = String::new();
            line.write_message(&mut text);
            log::log!(target: "blaze", level, "{module}: {text}");
            return;
        }
        output.write(&line);
    }
}

impl Output {
    fn write(&mut self, line: &Line<'_>) {
        self.text.clear();
        match (&self.way, self.format) {
            (Way::Callback, _) => {
                line.write_fields(&mut self.text);
            }
            (_, Some(Format::Json)) => line.write_json(&mut self.text),
            _ => line.write_text(&mut self.text),
        }
        let written = match &mut self.way {
            Way::None | Way::Facade => true,
            Way::Stderr => std::io::stderr().lock().write_all(self.text.as_bytes()).is_ok(),
            Way::File(file) => file.write(self.text.as_bytes()),
            Way::Callback => {
                let record = Record {
                    level: line.level,
                    module: line.module,
                    message: line.message,
                    fields: (!self.text.is_empty()).then_some(self.text.as_str()),
                    time_ns: line.time_ns,
                };
                match (&self.callback, &mut self.early) {
                    (Some(callback), _) => callback(&record),
                    (None, Early::Kept(lines)) if lines.len() < EARLY_LINES => {
                        lines.push(EarlyLine::of(&record));
                    }
                    (None, Early::Kept(_)) => return self.lost = self.lost.saturating_add(1),
                    (None, Early::Over) => (),
                }
                true
            }
        };
        self.lost = if written { 0 } else { self.lost.saturating_add(1) };
    }
}

fn most(settings: &Settings) -> LevelFilter {
    let levels =
        MODULES.iter().map(|module| settings.modules.get(*module).copied().unwrap_or(settings.level));
    levels.max().unwrap_or(settings.level)
}

/// Makes ready what lines go to.
fn open(settings: &Settings) -> Result<Way> {
    let invalid = |message: String| Error::new(Status::InvalidConfig, message);
    if settings.global && settings.target == Target::Facade {
        return Err(invalid("global: not with the target \"facade\", where lines would come back".into()));
    }
    Ok(match settings.target {
        Target::None => Way::None,
        Target::Stderr => Way::Stderr,
        Target::Callback => Way::Callback,
        Target::Facade => Way::Facade,
        Target::File => {
            let path = settings.file.path.as_deref();
            let path = path.ok_or_else(|| invalid("file.path: needed for the target \"file\"".into()))?;
            let file = RotatingFile::open(path, &settings.file);
            Way::File(file.map_err(|error| invalid(format!("file.path: {path}: {error}")))?)
        }
    })
}
