//! Spans: what took how long, in eight words.

/// What a span is about. The numbers are those in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Inside `blaze_submit`: part of the queue's time.
    Admission,
    /// From submit until a lane took the batch.
    Queue,
    /// The batch was held open for more rows though a lane was free: part of the queue's time.
    Batch,
    /// Rows were moved together, and brought to the lane's core.
    Copy,
    /// In the backend.
    Compute,
    /// Results were resolved, copied to the host's memory and published.
    Scatter,
    /// From publication until the host took the event.
    Delivery,
    /// The model was not in memory: part of the queue's time.
    EvictionWait,
    /// A host's thread worked in `blaze_pump`.
    Pump,
    /// A model was loaded.
    Load,
    /// A part of a load.
    Stage,
    /// A model left memory.
    Evict,
    /// Files were read.
    Io,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::Admission,
        Kind::Queue,
        Kind::Batch,
        Kind::Copy,
        Kind::Compute,
        Kind::Scatter,
        Kind::Delivery,
        Kind::EvictionWait,
        Kind::Pump,
        Kind::Load,
        Kind::Stage,
        Kind::Evict,
        Kind::Io,
    ];

    /// Those that a request's time consists of, one after the other.
    pub const OF_REQUESTS: [Kind; 5] =
        [Kind::Queue, Kind::Copy, Kind::Compute, Kind::Scatter, Kind::Delivery];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Admission => "admission",
            Kind::Queue => "queue",
            Kind::Batch => "batch",
            Kind::Copy => "copy",
            Kind::Compute => "compute",
            Kind::Scatter => "scatter",
            Kind::Delivery => "delivery",
            Kind::EvictionWait => "eviction_wait",
            Kind::Pump => "pump",
            Kind::Load => "load",
            Kind::Stage => "load_stage",
            Kind::Evict => "evict",
            Kind::Io => "io",
        }
    }

    /// The kind whose time it is a part of.
    pub fn part_of(self) -> Option<Kind> {
        match self {
            Kind::Admission | Kind::Batch | Kind::EvictionWait => Some(Kind::Queue),
            Kind::Stage => Some(Kind::Load),
            _ => None,
        }
    }
}

/// What took how long. Times are on the engine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub kind: Kind,
    pub start_ns: u64,
    pub end_ns: u64,
    /// The model's handle; 0: none.
    pub model: u64,
    /// The ticket of the request; 0: it is about a batch.
    pub ticket: u64,
    /// The ticket of the batch's first request, which all spans of a batch have in common; 0: none.
    pub batch: u64,
    /// Rows of the request, or of the batch; members of the batch for `Delivery`.
    pub rows: u32,
    /// The system's number for the thread.
    pub thread: u32,
    /// How it ended, as in the ABI.
    pub status: i32,
}

/// Words of a span.
pub const WORDS: usize = 7;

impl Span {
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    pub fn pack(&self) -> [u64; WORDS] {
        let low = |number: u32| u64::from(number);
        [
            self.start_ns,
            self.end_ns,
            self.model,
            self.ticket,
            self.batch,
            low(self.rows) << 32 | low(self.thread),
            low(self.status as u32) << 32 | self.kind as u64,
        ]
    }

    pub fn unpack(words: [u64; WORDS]) -> Option<Span> {
        let [start_ns, end_ns, model, ticket, batch, rows, kind] = words;
        Some(Span {
            kind: *Kind::ALL.get(kind as u32 as usize)?,
            start_ns,
            end_ns,
            model,
            ticket,
            batch,
            rows: (rows >> 32) as u32,
            thread: rows as u32,
            status: (kind >> 32) as u32 as i32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            let span = Span {
                kind,
                start_ns: u64::MAX - 1,
                end_ns: u64::MAX,
                model: 7 << 32,
                ticket: 1 << 63,
                batch: 3,
                rows: u32::MAX,
                thread: 12_345,
                status: -4,
            };
            assert_eq!(Span::unpack(span.pack()), Some(span));
        }
        assert_eq!(Span::unpack([0, 0, 0, 0, 0, 0, 200]), None);
    }
}
