//! What went on in an engine between two moments, as plain data. Advice is drawn from it and from nothing else.

/// An engine's doings over some seconds. Counts are of what happened in that time, unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// How long the time was.
    pub seconds: f64,
    /// Of this machine.
    pub cores: u32,
    /// Batches that may be computed at once; 0: the host's own threads do the work.
    pub threads: u32,
    /// Threads that one run may use inside an operator, for models that have no setting of their own.
    pub intra_op_threads: u32,
    /// CPU time that the whole process took.
    pub process_cpu_seconds: f64,
    /// Cores on which nothing ran at all, on average, whoever used the others; `None`: the system does not say.
    pub machine_idle_cores: Option<f64>,
    pub models: Vec<ModelPicture>,
    pub routes: Vec<RoutePicture>,
    pub memory: MemoryPicture,
    /// Accepted requests without a terminal event, on average.
    pub in_flight: f64,
    /// Events that are ready and that the host has not taken, on average.
    pub events_waiting: f64,
    /// Requests that hold a place of `queue.capacity`, on average, and how many places there are.
    pub places_taken: f64,
    pub places: u32,
    /// Refused submits, by reason.
    pub rejected: Vec<(&'static str, u64)>,
}

/// A model's doings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelPicture {
    /// `name:version`.
    pub name: String,
    pub backend: String,
    pub settings: SettingsInForce,
    /// Whether its requests are joined, and if not, why.
    pub joins: bool,
    pub not_joined_because: Option<String>,
    /// It is served by the threads that all models on the CPU share.
    pub on_shared_threads: bool,
    /// Execution providers asked for, the one that is used, and those that are not, with the reason.
    pub providers: Vec<String>,
    pub provider: String,
    pub providers_rejected: Vec<(String, String)>,

    pub ok: u64,
    pub failed: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub batches: u64,
    /// Rows in those batches, without padding.
    pub rows: u64,
    pub rows_per_batch: Spread,
    /// Bytes of inputs that were computed, and those of them that were padding.
    pub input_bytes: u64,
    pub padding_bytes: u64,

    /// Of requests that ended well: from submit to the end, and from submit until a lane took it.
    pub total: Times,
    pub queued: Times,
    /// Of batches: how long they were held open for more rows though a lane was free; moving rows together and padding,
    /// and handing results out; inside the backend.
    pub held: Times,
    pub copied: Times,
    pub computed: Times,
    /// Of requests with a deadline: the time that they were given at submit.
    pub patience: Times,
    /// Requests that no lane has taken yet, on average.
    pub queue_depth: f64,
    /// What a run of so many rows takes, in nanoseconds, as learned so far.
    pub run_costs: Vec<(u32, u64)>,

    /// Requests that came while the model was not in memory; how often it left; how often it came back, and what that
    /// took in all.
    pub misses: u64,
    pub evictions: u64,
    pub reloads: u64,
    pub reload_seconds: f64,
    /// Bytes that it takes besides its buffers.
    pub memory_bytes: u64,
    /// Where its runs' time goes, largest first; empty unless operators were profiled.
    pub operators: Vec<OperatorShare>,
}

/// What a model runs with just now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettingsInForce {
    pub max_rows: u32,
    pub max_delay_us: u32,
    pub lanes: u32,
    pub intra_op_threads: u32,
    /// Sizes that batches are padded to.
    pub buckets: Vec<u32>,
    /// Axes that are padded, with their sizes.
    pub axes: Vec<(String, Vec<u32>)>,
    pub warmup: bool,
    pub pinned: bool,
}

/// What there is to say of many durations, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    pub count: u64,
    /// All of them together.
    pub sum_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
}

impl Times {
    /// 0 without any.
    pub fn mean_ns(&self) -> f64 {
        self.sum_ns as f64 / self.count.max(1) as f64
    }
}

/// What there is to say of many numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub max: u64,
}

/// An operator of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorShare {
    pub name: String,
    /// As in ONNX: `MatMul`.
    pub kind: String,
    pub provider: String,
    /// Of the time of all operators, 0 to 1.
    pub share: f64,
    pub mean_ns: f64,
}

/// A route's doings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutePicture {
    pub name: String,
    pub strategy: String,
    pub targets: Vec<TargetPicture>,
    pub failovers: u64,
    pub hedges: u64,
    pub timeouts: u64,
    /// Requests that failed at every target tried.
    pub exhausted: u64,
}

/// A route's target's doings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetPicture {
    /// Of the model, as the route names it.
    pub name: String,
    pub tier: u32,
    /// Attempts that have ended.
    pub ok: u64,
    pub failed: u64,
    pub slow: u64,
    pub given_up: u64,
    /// Of attempts that ended well.
    pub times: Times,
    /// How often its breaker has opened, and whether it is open now.
    pub opened: u64,
    pub is_open: bool,
}

/// What memory was used for. Bytes are those of the end of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryPicture {
    pub budget_bytes: Option<u64>,
    pub used_bytes: u64,
    pub models_bytes: u64,
    pub buffers_bytes: u64,
    pub idle_buffers_bytes: u64,
    /// Bytes of all models that are loaded or evicted, were they all in memory.
    pub wanted_bytes: u64,
    pub evictions: u64,
    pub reloads: u64,
    pub misses: u64,
}
