//! A fuzzed program's calls.

/// What a request has in it.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
pub struct Work {
    pub model: u8,
    pub rows: u8,
    pub columns: u8,
    pub dtype: u8,
    pub borrow: bool,
    pub buffer: u8,
    pub priority: i8,
    pub deadline: u8,
    pub tenant: u8,
    pub session: u8,
    /// Which place is wrong, and how; mostly none.
    pub wrong: u8,
    pub how: u32,
}

/// One call.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
pub enum Call {
    Submit(Work, u8),
    SubmitMany(Work, u8, u8),
    Infer(Work, u8),
    Poll { queue: u8, room: u8, stride: u8 },
    Wait { queue: u8, room: u8, wait: u8 },
    Output { event: u8, index: u8, size: u8 },
    Release { event: u8, how: u8 },
    Cancel(u8),
    Load(u8),
    LoadAsync(u8, u8),
    LoadMemory { cut: u16 },
    Unload { model: u8, queue: u8 },
    Find(u8),
    Info(u8),
    Text { what: u8, format: u8 },
    Health(u8),
    Log(u8),
    LogCallback(bool),
    Profile(u8),
    ProfileStop,
    Budget(u32),
    Trim,
    RouteCreate(u8),
    RouteUpdate(u8, u8),
    RouteDestroy(u8),
    TargetAdd(u8, u8),
    TargetRemove(u8, u8),
    TargetDrain(u8, u8, u8),
    Tenant(u8),
    Strategy,
    Configure(u8, u8),
    Tune(u8),
    Rescan(u8),
    Pump(u8),
    Descriptor(u8),
    QueueCreate(u32),
    QueueDestroy(u8),
    Shutdown(u8),
    Null(u8),
}
