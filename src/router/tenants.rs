//! Who asks: each tenant's own limits, weight and counts, found without a lock.
//!
//! Entries are made once and never freed. One that is needed for another tenant is recycled, but only while no request of
//! its tenant is under way, which the entry's own count of them decides.

use super::limits::{Limits, Refusal};
use super::random::mix;
use crate::config::{LimitsConfig, TenantConfig, TenantsConfig};
use crate::error::{Error, Result, Status};
use crate::features::ROUTER;
use crate::metrics::{Counter, Ended, OUTCOMES};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// Places at which a tenant may be in the table. A quarter of all is used at most, so that hardly ever all are taken; who
/// has none shares the limits of those that are not told apart.
const PROBES: usize = 32;
/// Entries that are looked at for one that may be recycled.
const CANDIDATES: usize = 16;
/// In `Tenant::in_flight`: the entry is being recycled.
const RECYCLED: u32 = 1 << 31;
/// When a tenant has asked last is noted to a millisecond.
const SILENCE_NS: u64 = 1 << 20;

/// One tenant, or all together that are not told apart.
#[derive(Default)]
#[repr(align(64))]
pub struct Tenant {
    id: AtomicU64,
    /// Requests that hold this entry.
    in_flight: AtomicU32,
    weight: AtomicU32,
    seen_ns: AtomicU64,
    listed: AtomicBool,
    class: Mutex<Option<Arc<str>>>,
    pub limits: Limits,
    ended: Ended,
    /// What was counted before the tenant was listed: that was for all that are not.
    ended_before: [AtomicU64; OUTCOMES.len()],
    refused_before: AtomicU64,
}

impl Tenant {
    /// Its `tenant_id`; 0: those that are not told apart.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    /// Its share when others want more than there is.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub fn class(&self) -> Option<Arc<str>> {
        lock(&self.class).clone()
    }

    /// Whether it is named in the configuration.
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed) & !RECYCLED
    }

    /// Requests that were accepted and have ended. Only rises.
    pub fn served(&self) -> u64 {
        self.ended().iter().sum()
    }

    /// The same by outcome, as in `OUTCOMES`.
    pub fn ended(&self) -> [u64; OUTCOMES.len()] {
        let ended = self.ended.get();
        std::array::from_fn(|at| ended[at].saturating_sub(self.ended_before[at].load(Ordering::Relaxed)))
    }

    /// Requests that were accepted; may count one for a moment that is refused further on.
    pub fn accepted(&self) -> u64 {
        self.served() + u64::from(self.in_flight())
    }

    /// Requests that its own limits refused.
    pub fn refused(&self) -> u64 {
        self.limits.refused.total().saturating_sub(self.refused_before.load(Ordering::Relaxed))
    }

    fn configure(&self, config: &TenantConfig) {
        self.weight.store(config.weight, Ordering::Relaxed);
        *lock(&self.class) = config.class.as_deref().map(Arc::from);
        self.limits.set(&config.limits);
    }

    /// Holds the entry if it is `id`'s.
    fn hold(&self, id: u64, now_ns: u64) -> bool {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if before & RECYCLED != 0 || self.id() != id {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        if now_ns.saturating_sub(self.seen_ns.load(Ordering::Relaxed)) > SILENCE_NS {
            self.seen_ns.store(now_ns, Ordering::Relaxed);
        }
        true
    }

    fn is_idle(&self, now_ns: u64) -> bool {
        !self.is_listed() && self.in_flight.load(Ordering::Acquire) == 0 && self.limits.is_idle(now_ns)
    }
}

/// A tenant's entry, which stays that tenant's as long as this is there.
pub struct TenantRef<'a> {
    tenant: &'a Tenant,
    index: u32,
}

impl TenantRef<'_> {
    /// Keeps holding the entry for a request, until `Tenants::leave` or `Tenants::undo` with the index.
    pub fn keep(self) -> u32 {
        let index = self.index;
        std::mem::forget(self);
        index
    }
}

impl Deref for TenantRef<'_> {
    type Target = Tenant;

    fn deref(&self) -> &Tenant {
        self.tenant
    }
}

impl Drop for TenantRef<'_> {
    fn drop(&mut self) {
        self.tenant.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where a tenant's entry is. Read without a lock, so both may be of different tenants: the entry itself says whose it is.
#[derive(Default)]
struct Slot {
    /// 0: empty.
    id: AtomicU64,
    index: AtomicU32,
}

struct Table {
    slots: Box<[Slot]>,
    /// As many as the capacity, and a last one for all that are not told apart.
    entries: Box<[OnceLock<Box<Tenant>>]>,
}

/// What is changed only under the lock.
#[derive(Default)]
struct Book {
    /// Entries that have been made.
    made: usize,
    /// Where the search for an entry to recycle goes on.
    hand: usize,
}

/// What several tenants did together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassTotals {
    /// `None`: those without a class, listed or not.
    pub class: Option<Arc<str>>,
    /// Those that have an entry just now.
    pub tenants: u64,
    /// Requests that have ended, as in `OUTCOMES`.
    pub ended: [u64; OUTCOMES.len()],
    pub refused: u64,
    pub in_flight: u64,
}

impl ClassTotals {
    /// Requests that have ended.
    pub fn served(&self) -> u64 {
        self.ended.iter().sum()
    }
}

/// All tenants.
pub struct Tenants {
    used: AtomicBool,
    table: OnceLock<Table>,
    book: Mutex<Book>,
    default: LimitsConfig,
    capacity: usize,
    /// Whether those that are not listed have limits, and so have to be told apart.
    tells_apart: bool,
    /// What was counted for tenants that were not listed then, and are now.
    ended_before: [Counter; OUTCOMES.len()],
    refused_before: Counter,
}

impl Tenants {
    /// The tenants of a configuration that was checked. Fails as `set` does.
    pub fn new(config: &TenantsConfig) -> Result<Self> {
        let tells_apart = config.default != LimitsConfig::default();
        let tenants = Tenants {
            used: AtomicBool::new(tells_apart),
            table: OnceLock::new(),
            book: Mutex::default(),
            default: config.default.clone(),
            capacity: config.capacity.max(1) as usize,
            tells_apart,
            ended_before: Default::default(),
            refused_before: Counter::default(),
        };
        config.list.iter().try_for_each(|tenant| tenants.set(tenant))?;
        Ok(tenants)
    }

    /// Whether anything is said about tenants. If not, `find` finds nobody.
    #[inline]
    pub fn is_used(&self) -> bool {
        ROUTER.built && self.used.load(Ordering::Relaxed)
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| {
            let slots = (4 * self.capacity).next_power_of_two().max(PROBES);
            Table {
                slots: std::iter::repeat_with(Slot::default).take(slots).collect(),
                entries: std::iter::repeat_with(OnceLock::new).take(self.capacity + 1).collect(),
            }
        })
    }

    /// The entry of the tenant, or the one for all that are not told apart. `None` without an id, and if nothing is said
    /// about tenants. Takes a lock only at a tenant's first request, and when there are more than the capacity.
    #[inline]
    pub fn find(&self, id: u64, now_ns: u64) -> Option<TenantRef<'_>> {
        if id == 0 || !self.is_used() {
            return None;
        }
        let table = self.table();
        if let Some(index) = table.look_up(id)
            && let Some(tenant) = table.hold(index, id, now_ns)
        {
            return Some(tenant);
        }
        let tenant = if self.tells_apart { self.admit(table, id, now_ns) } else { None };
        tenant.or_else(|| self.others(table))
    }

    /// Lets a request of the tenant in by the tenant's limits. The index is for `leave`; `None`: there is nothing to leave.
    #[inline]
    pub fn enter(&self, id: u64, rows: u32, now_ns: u64) -> Result<Option<u32>, Refusal> {
        let Some(tenant) = self.find(id, now_ns) else { return Ok(None) };
        tenant.limits.enter(rows, now_ns)?;
        Ok(Some(tenant.keep()))
    }

    /// A request has ended.
    pub fn leave(&self, index: u32, status: Status) {
        if let Some(tenant) = self.tenant(index) {
            tenant.limits.leave(1);
            tenant.ended.count(status);
            tenant.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A request that was let in a moment ago was refused further on.
    pub fn undo(&self, index: u32, rows: u32) {
        if let Some(tenant) = self.tenant(index) {
            tenant.limits.undo(rows);
            tenant.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The tenant with this index, of which a request is under way.
    pub fn tenant(&self, index: u32) -> Option<&Tenant> {
        Some(self.table.get()?.entries.get(index as usize)?.get()?)
    }

    /// Makes or changes a listed tenant. Fails if all places are taken by tenants that are listed or busy.
    pub fn set(&self, config: &TenantConfig) -> Result<()> {
        if config.id == 0 {
            return Err(Error::new(Status::InvalidConfig, "tenant id: must not be 0"));
        }
        let table = self.table();
        let mut book = lock(&self.book);
        let index = table.look_up(config.id).or_else(|| {
            // Idle is here who has nothing under way: the time is not known, and a bucket's level a small matter.
            let index = self.free_entry(table, &mut book, u64::MAX, self.capacity)?;
            table.give(index, config.id)
        });
        let Some(tenant) = index.and_then(|index| table.entries[index as usize].get()) else {
            let message = format!("tenants.capacity: {} tenants are there already", self.capacity);
            return Err(Error::new(Status::OverQuota, message));
        };
        tenant.configure(config);
        if !tenant.is_listed() {
            let (ended, refused) = (tenant.ended.get(), tenant.limits.refused.total());
            self.refused_before.add(refused);
            for (at, ended) in ended.into_iter().enumerate() {
                self.ended_before[at].add(ended);
                tenant.ended_before[at].store(ended, Ordering::Relaxed);
            }
            tenant.refused_before.store(refused, Ordering::Relaxed);
            tenant.listed.store(true, Ordering::Release);
        }
        self.used.store(true, Ordering::Release);
        Ok(())
    }

    /// Calls `visit` with each listed tenant.
    pub fn each(&self, visit: impl FnMut(&Tenant)) {
        self.entries().filter(|tenant| tenant.is_listed()).for_each(visit);
    }

    /// The sums of all tenants by class, those without one first.
    pub fn classes(&self) -> Vec<ClassTotals> {
        let mut classes: BTreeMap<Option<Arc<str>>, ClassTotals> = BTreeMap::new();
        let without = classes.entry(None).or_default();
        without.ended = std::array::from_fn(|at| self.ended_before[at].get());
        without.refused = self.refused_before.get();
        for tenant in self.entries() {
            let class = tenant.class();
            let totals =
                classes.entry(class.clone()).or_insert_with(|| ClassTotals { class, ..Default::default() });
            totals.tenants += u64::from(tenant.id() != 0);
            totals.ended.iter_mut().zip(tenant.ended()).for_each(|(total, own)| *total += own);
            totals.refused += tenant.refused();
            totals.in_flight += u64::from(tenant.in_flight());
        }
        classes.into_values().collect()
    }

    fn entries(&self) -> impl Iterator<Item = &Tenant> {
        let entries = self.table.get().map_or(&[][..], |table| &table.entries);
        entries.iter().filter_map(|entry| entry.get().map(|tenant| &**tenant))
    }

    /// The entry for all that are not told apart.
    fn others<'a>(&self, table: &'a Table) -> Option<TenantRef<'a>> {
        let tenant = table.entries[self.capacity].get_or_init(|| self.fresh());
        tenant.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(TenantRef { tenant, index: self.capacity as u32 })
    }

    fn fresh(&self) -> Box<Tenant> {
        let weight = AtomicU32::new(1);
        Box::new(Tenant { weight, limits: Limits::new(&self.default), ..Default::default() })
    }

    /// Finds an entry for a tenant that has none.
    #[cold]
    fn admit<'a>(&self, table: &'a Table, id: u64, now_ns: u64) -> Option<TenantRef<'a>> {
        let mut book = lock(&self.book);
        let index = match table.look_up(id) {
            Some(index) => index, // another thread has come first
            None => {
                let index = self.free_entry(table, &mut book, now_ns, CANDIDATES)?;
                table.give(index, id)?
            }
        };
        table.hold(index, id, now_ns)
    }

    /// An entry that is nobody's: a new one, or of the idle ones among some the one that was silent longest.
    fn free_entry(&self, table: &Table, book: &mut Book, now_ns: u64, candidates: usize) -> Option<u32> {
        if book.made < self.capacity {
            let index = book.made;
            book.made += 1;
            table.entries[index].get_or_init(|| self.fresh());
            return Some(index as u32);
        }
        let some = (0..candidates.min(self.capacity)).map(|step| (book.hand + step) % self.capacity);
        let idle = some.filter_map(|index| {
            let tenant = table.entries[index].get()?;
            tenant.is_idle(now_ns).then(|| (tenant.seen_ns.load(Ordering::Relaxed), index, tenant))
        });
        let found = idle.min_by_key(|(seen_ns, index, _)| (*seen_ns, *index));
        book.hand = (book.hand + candidates) % self.capacity;
        let (_, index, tenant) = found?;
        // From here on nobody can hold it; if somebody does meanwhile, it is not idle.
        tenant.in_flight.compare_exchange(0, RECYCLED, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        table.clear(tenant.id.swap(0, Ordering::AcqRel));
        tenant.in_flight.fetch_sub(RECYCLED, Ordering::AcqRel);
        Some(index as u32)
    }
}

impl Table {
    fn probes(&self, id: u64) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        let first = mix(id) as usize;
        (0..PROBES).map(move |step| &self.slots[first.wrapping_add(step) & mask])
    }

    #[inline]
    fn look_up(&self, id: u64) -> Option<u32> {
        let slot = self.probes(id).find(|slot| slot.id.load(Ordering::Acquire) == id)?;
        Some(slot.index.load(Ordering::Acquire))
    }

    #[inline]
    fn hold(&self, index: u32, id: u64, now_ns: u64) -> Option<TenantRef<'_>> {
        let tenant = self.entries[index as usize].get()?;
        tenant.hold(id, now_ns).then(|| TenantRef { tenant, index }) // not made in vain: it lets go in the end
    }

    /// Gives an entry that is nobody's to a tenant. If the table has no place for it, the entry stays as it is: without an
    /// id, and so the first to be recycled.
    fn give(&self, index: u32, id: u64) -> Option<u32> {
        let tenant = self.entries[index as usize].get()?;
        tenant.seen_ns.store(0, Ordering::Relaxed);
        let slot = self.probes(id).find(|slot| slot.id.load(Ordering::Relaxed) == 0)?;
        tenant.id.store(id, Ordering::Release);
        slot.index.store(index, Ordering::Release);
        slot.id.store(id, Ordering::Release);
        Some(index)
    }

    fn clear(&self, id: u64) {
        if let Some(slot) = self.probes(id).find(|slot| id != 0 && slot.id.load(Ordering::Relaxed) == id) {
            slot.id.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::RefusalKind;

    const SECOND: u64 = 1_000_000_000;

    fn limits(concurrency: u32) -> LimitsConfig {
        LimitsConfig { concurrency: Some(concurrency), ..Default::default() }
    }

    fn listed(id: u64, class: &str, limits: LimitsConfig) -> TenantConfig {
        TenantConfig { id, class: Some(class.to_owned()), weight: 7, limits }
    }

    fn tenants(default: LimitsConfig, capacity: u32, list: Vec<TenantConfig>) -> Tenants {
        Tenants::new(&TenantsConfig { default, capacity, list }).unwrap()
    }

    fn enter(tenants: &Tenants, id: u64, now_ns: u64) -> Result<u32, RefusalKind> {
        tenants.enter(id, 1, now_ns).map(|index| index.unwrap()).map_err(|refusal| refusal.kind)
    }

    #[test]
    fn nobody_is_looked_for_unless_something_is_said() {
        let tenants = tenants(LimitsConfig::default(), 10, vec![]);
        assert!(!tenants.is_used() && tenants.find(5, SECOND).is_none());
        assert!(tenants.table.get().is_none());
        assert_eq!(tenants.enter(5, 1, SECOND), Ok(None));
        tenants.set(&listed(5, "gold", limits(1))).unwrap();
        assert!(tenants.is_used() && tenants.find(0, SECOND).is_none());
        assert_eq!(tenants.find(5, SECOND).unwrap().id(), 5);
        assert_eq!(tenants.find(6, SECOND).unwrap().id(), 0); // has no limits: need not be told apart
        assert_eq!(tenants.set(&listed(0, "gold", limits(1))).unwrap_err().status, Status::InvalidConfig);
    }

    #[test]
    fn each_tenant_has_limits_of_its_own() {
        let tenants = tenants(limits(1), 10, vec![listed(5, "gold", limits(2))]);
        let first = enter(&tenants, 8, SECOND).unwrap();
        assert_eq!(enter(&tenants, 8, SECOND), Err(RefusalKind::Quota));
        enter(&tenants, 9, SECOND).unwrap();
        let gold = [5, 5].map(|id| enter(&tenants, id, SECOND).unwrap());
        assert_eq!(enter(&tenants, 5, SECOND), Err(RefusalKind::Quota));
        tenants.leave(first, Status::Ok);
        tenants.undo(gold[0], 1);
        tenants.leave(gold[1], Status::Ok);
        assert_eq!(enter(&tenants, 8, SECOND), Ok(first));
        let tenant = tenants.find(5, SECOND).unwrap();
        assert_eq!((tenant.weight(), tenant.class().as_deref()), (7, Some("gold")));
        assert_eq!((tenant.served(), tenant.refused(), tenant.in_flight()), (1, 1, 1)); // `tenant` holds it
        drop(tenant);
        let mut seen = Vec::new();
        tenants.each(|tenant| seen.push((tenant.id(), tenant.in_flight(), tenant.accepted())));
        assert_eq!(seen, [(5, 0, 1)]);
        let others =
            ClassTotals { class: None, tenants: 2, ended: [1, 0, 0, 0, 0], refused: 1, in_flight: 2 };
        let gold = ClassTotals {
            class: Some("gold".into()),
            tenants: 1,
            ended: [1, 0, 0, 0, 0],
            refused: 1,
            in_flight: 0,
        };
        assert_eq!(tenants.classes(), [others, gold]);
    }

    #[test]
    fn who_is_idle_makes_room_and_who_is_not_keeps_its_place() {
        let rate = LimitsConfig { requests_per_second: Some(1.0), burst: Some(2), ..limits(2) };
        let tenants = tenants(rate, 3, vec![listed(5, "gold", limits(1))]);
        let held = enter(&tenants, 6, SECOND).unwrap();
        tenants.leave(enter(&tenants, 7, SECOND).unwrap(), Status::Ok);
        let others = enter(&tenants, 8, SECOND).unwrap(); // 7 has used a token: nobody is as good as new
        assert_eq!(tenants.tenant(others).unwrap().id(), 0);
        assert_eq!(enter(&tenants, 9, SECOND), Ok(others)); // one entry for both
        assert_eq!(enter(&tenants, 10, SECOND), Err(RefusalKind::Quota));
        let recycled = enter(&tenants, 8, 10 * SECOND).unwrap();
        assert_eq!(tenants.tenant(recycled).unwrap().id(), 8);
        assert_eq!(tenants.tenant(held).unwrap().id(), 6);
        assert_eq!(tenants.find(7, 10 * SECOND).unwrap().id(), 0);
        assert_eq!(tenants.find(5, 10 * SECOND).unwrap().id(), 5);
        let full = tenants.set(&listed(20, "gold", limits(1))).unwrap_err();
        assert_eq!((full.status, full.message.contains('3')), (Status::OverQuota, true));
        tenants.leave(recycled, Status::Ok);
        tenants.set(&listed(20, "gold", limits(1))).unwrap();
        assert_eq!(tenants.find(20, 10 * SECOND).unwrap().id(), 20);
    }

    #[test]
    fn of_the_idle_the_one_silent_longest_goes() {
        let tenants = tenants(limits(1), 3, vec![]);
        for (id, second) in [(1, 5), (2, 1), (3, 9)] {
            tenants.leave(enter(&tenants, id, second * SECOND).unwrap(), Status::Ok);
        }
        enter(&tenants, 4, 20 * SECOND).unwrap();
        let found = [1, 2, 3, 4].map(|id| tenants.table().look_up(id).is_some());
        assert_eq!(found, [true, false, true, true]);
    }

    #[test]
    fn counts_survive_listing_and_recycling() {
        let tenants = tenants(limits(1), 1, vec![]);
        for id in 1..=5 {
            tenants.leave(enter(&tenants, id, id * SECOND).unwrap(), Status::Ok);
        }
        tenants.set(&listed(5, "gold", limits(2))).unwrap();
        tenants.leave(enter(&tenants, 5, 9 * SECOND).unwrap(), Status::Ok);
        let totals: Vec<_> = tenants.classes().iter().map(|class| (class.tenants, class.served())).collect();
        assert_eq!(totals, [(0, 5), (1, 1)]);
    }

    #[test]
    fn many_tenants_all_have_a_place() {
        let tenants = tenants(limits(1), 4096, vec![]);
        for id in 1..=4096u64 {
            assert_eq!(tenants.find(id << 32, SECOND).unwrap().id(), id << 32);
        }
    }

    /// More tenants than places, from many threads: what enters an entry leaves that entry, and nobody gets too much.
    #[test]
    fn entries_change_hands_only_while_nobody_holds_them() {
        let tenants = tenants(limits(2), 4, vec![listed(1, "gold", limits(2))]);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let tenants = &tenants;
                scope.spawn(move || {
                    for turn in 0..20_000 {
                        let id = 1 + mix(turn * 4 + thread) % 12;
                        let Ok(index) = enter(tenants, id, turn * SECOND) else { continue };
                        let tenant = tenants.tenant(index).unwrap();
                        let whose = tenant.id();
                        assert!(whose == id || whose == 0, "{id} got the entry of {whose}");
                        assert!((1..=2).contains(&tenant.limits.in_use()));
                        std::thread::yield_now();
                        assert_eq!(tenant.id(), whose);
                        tenants.leave(index, Status::Ok);
                    }
                });
            }
        });
        let classes = tenants.classes();
        assert!(classes.iter().all(|class| class.in_flight == 0 && class.served() > 100), "{classes:?}");
        assert!(tenants.entries().all(|tenant| tenant.limits.in_use() == 0));
    }
}
