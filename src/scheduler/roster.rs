//! The open batch: who may join it, who has written, and who has been answered. All of it lock-free.
//!
//! A member claims a place and some rows with one atomic step, writes them, and says so with another. Whoever closes
//! the batch, the lane or a member that finds it full, is known by the same word, so there is exactly one. A batch is
//! used again and again; its lap, which is part of the word, tells a late-comer of an earlier use.

use crate::sync::{AtomicU64, Ordering};
use std::sync::OnceLock;

/// The most members of a batch.
pub const MAX_MEMBERS: usize = 1 << 12;
/// The most rows of a batch.
pub const MAX_ROWS: usize = 1 << 16;

const ROW_BITS: u32 = 20;
const MEMBER_BITS: u32 = 13;
const LAP_BITS: u32 = 30;
const CLOSED: u64 = 1 << 63;

/// How many have joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub members: usize,
    pub rows: usize,
}

/// What became of an attempt to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A place. With `closed` the batch is full now, and the claimer must see that it is run.
    Place { member: usize, first_row: usize, closed: Option<Counts> },
    /// There was no room, and the claimer has closed it: it must see that it is run, and look for another.
    Closed(Counts),
    /// It was closed before, or is in another lap.
    Gone,
}

/// Who has joined: the count of members and rows, the lap, and whether it is closed, in one word.
pub struct Claims(AtomicU64);

impl Default for Claims {
    fn default() -> Self {
        Claims(AtomicU64::new(CLOSED))
    }
}

fn lap_of(word: u64) -> u32 {
    (word >> (ROW_BITS + MEMBER_BITS)) as u32 & ((1 << LAP_BITS) - 1)
}

fn counts_of(word: u64) -> Counts {
    Counts {
        members: (word >> ROW_BITS) as usize & ((1 << MEMBER_BITS) - 1),
        rows: word as usize & ((1 << ROW_BITS) - 1),
    }
}

fn word(lap: u32, counts: Counts) -> u64 {
    let lap = u64::from(lap & ((1 << LAP_BITS) - 1));
    lap << (ROW_BITS + MEMBER_BITS) | (counts.members as u64) << ROW_BITS | counts.rows as u64
}

impl Claims {
    /// Opens it for `lap`, without members. Only for whoever owns it while it is closed.
    pub fn open(&self, lap: u32) {
        self.0.store(word(lap, Counts { members: 0, rows: 0 }), Ordering::Release);
    }

    /// Sets it as closed with these members already in. Only for whoever owns it while it is closed.
    pub fn set_closed(&self, lap: u32, counts: Counts) {
        self.0.store(word(lap, counts) | CLOSED, Ordering::Release);
    }

    /// Claims a place for one member with `rows` rows, of at most `max_rows`. `SeqCst`, since lanes look for members
    /// before they sleep.
    pub fn claim(&self, lap: u32, rows: usize, max_rows: usize, max_members: usize) -> Claim {
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            if now & CLOSED != 0 || lap_of(now) != lap & ((1 << LAP_BITS) - 1) {
                return Claim::Gone;
            }
            let had = counts_of(now);
            let counts = Counts { members: had.members + 1, rows: had.rows + rows };
            let fits = counts.rows <= max_rows && counts.members <= max_members;
            let full = counts.rows >= max_rows || counts.members >= max_members;
            let new = match (fits, full) {
                (true, false) => word(lap, counts),
                (true, true) => word(lap, counts) | CLOSED,
                (false, _) => now | CLOSED,
            };
            match self.0.compare_exchange_weak(now, new, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) if !fits => return Claim::Closed(had),
                Ok(_) => {
                    let closed = full.then_some(counts);
                    return Claim::Place { member: had.members, first_row: had.rows, closed };
                }
                Err(other) => now = other,
            }
        }
    }

    /// Closes it, unless somebody else has, or it is in another lap, or has no members yet.
    pub fn close(&self, lap: u32) -> Option<Counts> {
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            let counts = counts_of(now);
            if now & CLOSED != 0 || lap_of(now) != lap & ((1 << LAP_BITS) - 1) || counts.members == 0 {
                return None;
            }
            match self.0.compare_exchange_weak(now, now | CLOSED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(counts),
                Err(other) => now = other,
            }
        }
    }

    /// Closes it if it is open for `lap` and nobody has joined; true if so.
    pub fn close_empty(&self, lap: u32) -> bool {
        let empty = word(lap, Counts { members: 0, rows: 0 });
        self.0.compare_exchange(empty, empty | CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Who has joined `lap` so far, while it is open.
    pub fn peek(&self, lap: u32) -> Option<Counts> {
        let now = self.0.load(Ordering::SeqCst);
        let open = now & CLOSED == 0 && lap_of(now) == lap & ((1 << LAP_BITS) - 1);
        open.then(|| counts_of(now))
    }

    /// Who has joined.
    pub fn counts(&self) -> Counts {
        counts_of(self.0.load(Ordering::Acquire))
    }
}

/// One bit for each member, which is set at most once in a lap.
pub struct Marks(Box<[Line]>);

/// Words that share a cache line with nothing else: what submitters write is not what lanes or hosts write.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; WORDS]);

const WORDS: usize = 8;

impl Marks {
    pub fn new(members: usize) -> Self {
        Marks((0..members.div_ceil(64 * WORDS)).map(|_| Line::default()).collect())
    }

    fn at(&self, word: usize) -> &AtomicU64 {
        &self.0[word / WORDS].0[word % WORDS]
    }

    /// Takes all marks away. Only for an exclusive owner.
    pub fn clear(&self) {
        self.0.iter().flat_map(|line| &line.0).for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Sets a mark; true if it was not set. `SeqCst`, so that a `Bell` may be rung after it.
    #[inline]
    pub fn set(&self, member: usize) -> bool {
        let bit = 1 << (member % 64);
        self.at(member / 64).fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    #[inline]
    pub fn is_set(&self, member: usize) -> bool {
        self.at(member / 64).load(Ordering::SeqCst) & 1 << (member % 64) != 0
    }

    /// Whether the first `members` are all marked.
    pub fn all_set(&self, members: usize) -> bool {
        (0..members.div_ceil(64)).all(|at| {
            let all = mask(members, at);
            self.at(at).load(Ordering::SeqCst) & all == all
        })
    }

    /// How many of the first `members` are marked.
    pub fn count(&self, members: usize) -> usize {
        let words = (0..members.div_ceil(64))
            .map(|at| (self.at(at).load(Ordering::SeqCst) & mask(members, at)).count_ones() as usize);
        words.sum()
    }

    /// Marks all of the first `members` that are not, without those in `but`; their bits, a word at a time, go to `newly`.
    pub fn set_rest(&self, members: usize, but: impl Fn(usize) -> u64, mut newly: impl FnMut(usize, u64)) {
        for at in 0..members.div_ceil(64) {
            let all = mask(members, at) & !but(at);
            let before = self.at(at).fetch_or(all, Ordering::SeqCst);
            newly(at, all & !before);
        }
    }

    /// Sets the marks of a word as given. Only for an exclusive owner.
    pub fn store(&self, at: usize, bits: u64) {
        self.at(at).store(bits, Ordering::Relaxed);
    }

    /// The marks of a word.
    pub fn word(&self, at: usize) -> u64 {
        self.at(at).load(Ordering::Relaxed)
    }
}

/// One bit for each member of any batch, at a place that never moves: a word for the first members, and more words,
/// made when they are first needed and then kept, for the members of larger batches.
#[derive(Default)]
pub struct Held {
    first: AtomicU64,
    more: OnceLock<Marks>,
}

impl Held {
    fn at(&self, word: usize) -> Option<&AtomicU64> {
        if word == 0 { Some(&self.first) } else { Some(self.more.get()?.at(word - 1)) }
    }

    /// Takes all marks away. Only for an exclusive owner.
    pub fn clear(&self) {
        self.first.store(0, Ordering::Relaxed);
        if let Some(more) = self.more.get() {
            more.clear();
        }
    }

    /// Adds the marks of a word.
    pub fn add(&self, at: usize, bits: u64) {
        if at > 0 {
            self.more.get_or_init(|| Marks::new(MAX_MEMBERS));
        }
        if let Some(word) = self.at(at) {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Sets a mark.
    pub fn set(&self, member: usize) {
        self.add(member / 64, 1 << (member % 64));
    }

    /// Takes a mark away; true if it was set.
    #[inline]
    pub fn unset(&self, member: usize) -> bool {
        let bit = 1 << (member % 64);
        self.at(member / 64).is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    #[inline]
    pub fn is_set(&self, member: usize) -> bool {
        self.at(member / 64).is_some_and(|word| word.load(Ordering::Acquire) & 1 << (member % 64) != 0)
    }
}

/// The bits of word `at` that stand for the first `members`.
fn mask(members: usize, at: usize) -> u64 {
    match members.saturating_sub(64 * at) {
        0 => 0,
        64.. => u64::MAX,
        count => (1 << count) - 1,
    }
}

/// How often something is held, and the generation that the holders know it by. At 0 holds it is free.
#[derive(Default)]
pub struct Life(AtomicU64);

impl Life {
    pub fn new(generation: u32) -> Self {
        Life(AtomicU64::new(u64::from(generation) << 32))
    }

    /// The generation of the holders, or of the latest ones.
    pub fn generation(&self) -> u32 {
        (self.0.load(Ordering::Acquire) >> 32) as u32
    }

    /// Begins a new generation with `holds`. Only for whoever owns it while it is free.
    pub fn begin(&self, generation: u32, holds: u32) {
        self.0.store(u64::from(generation) << 32 | u64::from(holds), Ordering::Release);
    }

    /// Takes a hold, if it is held still in this generation (`None`: in any); returns the generation.
    pub fn hold(&self, generation: Option<u32>) -> Option<u32> {
        let mut now = self.0.load(Ordering::Acquire);
        loop {
            let current = (now >> 32) as u32;
            if now as u32 == 0 || generation.is_some_and(|wanted| wanted != current) {
                return None;
            }
            match self.0.compare_exchange_weak(now, now + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(current),
                Err(other) => now = other,
            }
        }
    }

    /// Whether it is held in this generation.
    pub fn is_held(&self, generation: u32) -> bool {
        let now = self.0.load(Ordering::Acquire);
        now as u32 > 0 && (now >> 32) as u32 == generation
    }

    /// Gives holds back; true if they were the last, so that the caller owns it.
    pub fn let_go(&self, holds: u32) -> bool {
        let before = self.0.fetch_sub(u64::from(holds), Ordering::AcqRel);
        before as u32 == holds
    }
}
