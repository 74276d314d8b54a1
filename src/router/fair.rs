//! Whose turn it is: requests that wait for room, each tenant's in turn by its weight.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: Start-time fair queuing, 1996): each tenant has a clock that goes on by the
//! cost of what it gets, over its weight, and who is furthest behind is next. A tenant that comes back begins where the
//! others are, so it has neither credit for its silence nor debts of long ago.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Levels of priority within a tenant.
const LEVELS: usize = 4;
/// Fractions of virtual time: costs are divided by weights of up to some thousands.
const FRACTION_BITS: u32 = 20;

struct Waiting<T> {
    cost: u32,
    item: T,
}

/// One tenant's requests.
struct Flow<T> {
    weight: u64,
    /// Where its clock is: the start tag of its next request.
    clock: u128,
    /// Its place in `WaitingRoom::order` while it has any.
    place: Option<Place>,
    levels: [VecDeque<Waiting<T>>; LEVELS],
    count: u64,
}

/// A start tag, and a number that decides between equal ones: who came first.
type Place = (u128, u64);

impl<T> Flow<T> {
    fn take_first(&mut self) -> Option<Waiting<T>> {
        self.levels.iter_mut().rev().find_map(VecDeque::pop_front).inspect(|_| self.count -= 1)
    }

    /// The one that can wait best: of the lowest level, the newest.
    fn take_last(&mut self) -> Option<Waiting<T>> {
        self.levels.iter_mut().find_map(VecDeque::pop_back).inspect(|_| self.count -= 1)
    }
}

/// Requests that wait for room, at most so many. It takes no lock: its owner has one.
pub struct WaitingRoom<T> {
    capacity: usize,
    len: usize,
    flows: HashMap<u64, Flow<T>>,
    /// Tenants with requests, by whose turn it is.
    order: BTreeMap<Place, u64>,
    /// Where a newcomer begins. As in WF²Q+ (Bennett, Zhang 1997) it goes on by what is taken, over all weights: were it only
    /// the last start tag, tenants that are new each time would all begin there, and it would never get on.
    clock: u128,
    /// Of tenants with requests.
    weights: u64,
    places: u64,
    /// When there are so many tenants it is time to look which of them can be forgotten.
    many: usize,
}

impl<T> WaitingRoom<T> {
    pub fn new(capacity: usize) -> Self {
        WaitingRoom {
            capacity,
            len: 0,
            flows: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            weights: 0,
            places: 0,
            many: 0,
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes how many may wait. Those that do already stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Lets a request wait: of a tenant with this weight, at a cost in rows, at a level from 0 to 3, higher ones first.
    ///
    /// If all places are taken, and this tenant has less than its share of them, then the tenant that is most above its own
    /// share loses one: the newest of its lowest level, which is returned. Otherwise the newcomer itself is the error.
    pub fn push(
        &mut self,
        tenant: u64,
        weight: u32,
        cost: u32,
        level: usize,
        item: T,
    ) -> Result<Option<T>, T> {
        let weight = u64::from(weight.max(1));
        let mut displaced = None;
        if self.len >= self.capacity {
            match self.above_share(tenant, weight) {
                Some(loser) => displaced = self.take_last(loser),
                None => return Err(item),
            }
        }
        let start = self.clock;
        let flow = self.flows.entry(tenant).or_insert_with(|| Flow {
            weight,
            clock: start,
            place: None,
            levels: Default::default(),
            count: 0,
        });
        if flow.count > 0 {
            self.weights -= flow.weight;
        } else {
            self.places += 1;
            flow.clock = flow.clock.max(start);
            let place = (flow.clock, self.places);
            flow.place = Some(place);
            self.order.insert(place, tenant);
        }
        self.weights += weight;
        flow.weight = weight;
        flow.levels[level.min(LEVELS - 1)].push_back(Waiting { cost: cost.max(1), item });
        flow.count += 1;
        self.len += 1;
        Ok(displaced)
    }

    /// Takes the request whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let (place, tenant) = self.order.pop_first()?;
        let flow = self.flows.get_mut(&tenant)?;
        let first = flow.take_first()?;
        self.len -= 1;
        let cost = u128::from(first.cost) << FRACTION_BITS;
        self.clock = self.clock.max(place.0) + cost / u128::from(self.weights);
        flow.clock = place.0 + cost / u128::from(flow.weight);
        if flow.count > 0 {
            self.places += 1;
            let next = (flow.clock, self.places);
            flow.place = Some(next);
            self.order.insert(next, tenant);
        } else {
            flow.place = None;
            self.weights -= flow.weight;
        }
        self.forget_the_absent();
        Some(first.item)
    }

    /// Takes out all requests that are not to be kept, as those that were cancelled or have expired. They cost nothing.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for flow in self.flows.values_mut().filter(|flow| flow.count > 0) {
            for level in &mut flow.levels {
                let (kept, out) = std::mem::take(level).into_iter().partition(|waiting| keep(&waiting.item));
                *level = kept;
                let out: VecDeque<Waiting<T>> = out;
                flow.count -= out.len() as u64;
                self.len -= out.len();
                removed.extend(out.into_iter().map(|waiting| waiting.item));
            }
            if flow.count == 0 {
                self.weights -= flow.weight;
                flow.place.take().and_then(|place| self.order.remove(&place));
            }
        }
        self.forget_the_absent();
        removed
    }

    /// Takes out the first request found that `is` the one.
    pub fn remove(&mut self, mut is: impl FnMut(&T) -> bool) -> Option<T> {
        let (flow, waiting) = self.flows.values_mut().find_map(|flow| {
            let waiting = flow.levels.iter_mut().find_map(|level| {
                let index = level.iter().position(|waiting| is(&waiting.item))?;
                level.remove(index)
            })?;
            Some((flow, waiting))
        })?;
        flow.count -= 1;
        self.len -= 1;
        if flow.count == 0 {
            self.weights -= flow.weight;
            flow.place.take().and_then(|place| self.order.remove(&place));
        }
        self.forget_the_absent();
        Some(waiting.item)
    }

    /// Who has most of the places for its weight, if a newcomer of `tenant` has a right to one of them.
    fn above_share(&self, tenant: u64, weight: u64) -> Option<u64> {
        let (count, old_weight) = self
            .flows
            .get(&tenant)
            .filter(|flow| flow.count > 0)
            .map_or((0, 0), |flow| (flow.count, flow.weight));
        let wanted = u128::from(count + 1);
        let weights = u128::from(self.weights - old_weight + weight);
        // Where there are more tenants than places, nobody's share is a whole one: then the first counts as within it.
        if count > 0 && wanted * weights > self.capacity as u128 * u128::from(weight) {
            return None;
        }
        let others = self.order.iter().filter(|(_, other)| **other != tenant);
        let places = others.filter_map(|(_, other)| Some((*other, self.flows.get(other)?)));
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let (loser, flow) =
            places.max_by(|(_, a), (_, b)| product(a.count, b.weight).cmp(&product(b.count, a.weight)))?;
        (product(flow.count, weight) > wanted * u128::from(flow.weight)).then_some(loser)
    }

    fn take_last(&mut self, tenant: u64) -> Option<T> {
        let flow = self.flows.get_mut(&tenant)?;
        let last = flow.take_last()?;
        self.len -= 1;
        if flow.count == 0 {
            self.weights -= flow.weight;
            flow.place.take().and_then(|place| self.order.remove(&place));
        }
        Some(last.item)
    }

    /// Drops the clocks of tenants without requests that the others have reached, now and then; all if nobody waits.
    fn forget_the_absent(&mut self) {
        if self.len == 0 {
            self.flows.clear();
        } else if self.flows.len() > self.many {
            let clock = self.clock;
            self.flows.retain(|_, flow| flow.count > 0 || flow.clock > clock);
            self.many = 2 * self.flows.len() + 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items are `(tenant, number)`.
    type Room = WaitingRoom<(u64, u32)>;

    fn push(
        room: &mut Room,
        tenant: u64,
        weight: u32,
        number: u32,
    ) -> Result<Option<(u64, u32)>, (u64, u32)> {
        room.push(tenant, weight, 1, 0, (tenant, number))
    }

    fn counts(room: &Room) -> Vec<(u64, u64)> {
        let mut counts: Vec<_> = room.flows.iter().map(|(tenant, flow)| (*tenant, flow.count)).collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn shares_go_by_weights_and_cost() {
        let mut room = Room::new(10_000);
        // (tenant, weight, cost): rows should be as 1 : 2 : 5, whatever a request has of them.
        let tenants = [(1, 1, 1), (2, 2, 8), (3, 5, 3)];
        for number in 0..2000 {
            for (tenant, weight, cost) in tenants {
                room.push(tenant, weight, cost, 0, (tenant, number)).unwrap();
            }
        }
        let mut rows = [0u32; 3];
        while rows.iter().sum::<u32>() < 4000 {
            let (tenant, _) = room.pop().unwrap();
            rows[tenant as usize - 1] += tenants[tenant as usize - 1].2;
        }
        let shares = rows.map(|rows| f64::from(rows) / 4000.0 * 8.0);
        for (share, want) in shares.iter().zip([1.0, 2.0, 5.0]) {
            assert!((share - want).abs() < 0.03 * want, "{shares:?}");
        }
    }

    #[test]
    fn who_asks_ten_times_as_much_does_not_delay_the_others_more_than_its_share() {
        let mut room = Room::new(1000);
        for number in 0..500 {
            push(&mut room, 1, 1, number).unwrap();
        }
        for number in 0..50 {
            push(&mut room, 2, 1, number).unwrap();
        }
        let taken: Vec<_> = std::iter::from_fn(|| room.pop()).collect();
        for number in 0..50 {
            let at = taken.iter().position(|item| *item == (2, number)).unwrap();
            assert!(at <= 2 * number as usize + 1, "request {number} of tenant 2 came at {at}");
        }
        assert_eq!(taken.len(), 550);
        assert!(taken.iter().filter(|item| item.0 == 1).is_sorted());
    }

    #[test]
    fn a_light_tenant_is_slow_but_never_starves() {
        let mut room = Room::new(100);
        push(&mut room, 1, 1, 0).unwrap();
        push(&mut room, 1, 1, 1).unwrap();
        let mut turns = Vec::new();
        for turn in 0..2500 {
            push(&mut room, 2, 1000, turn).unwrap();
            if room.pop().unwrap().0 == 1 {
                turns.push(turn);
            }
        }
        assert_eq!(turns.len(), 2, "{turns:?}");
        assert!(turns[1] <= 1010, "{turns:?}");
    }

    #[test]
    fn tenants_that_are_new_each_time_starve_nobody() {
        let mut room = Room::new(100);
        for number in 0..3 {
            push(&mut room, 1, 1, number).unwrap();
        }
        let mut turns = Vec::new();
        for turn in 0..100 {
            push(&mut room, 1000 + turn, 1, 0).unwrap();
            if room.pop().unwrap().0 == 1 {
                turns.push(turn);
            }
        }
        assert!(turns.len() == 3 && turns[2] < 10, "{turns:?}");
    }

    #[test]
    fn silence_earns_no_credit() {
        let mut room = Room::new(1000);
        push(&mut room, 1, 1, 0).unwrap();
        assert_eq!(room.pop(), Some((1, 0)));
        for number in 0..400 {
            push(&mut room, 2, 1, number).unwrap();
        }
        for _ in 0..200 {
            room.pop();
        }
        for number in 1..=50 {
            push(&mut room, 1, 1, number).unwrap();
        }
        let first = (0..20).filter(|_| room.pop().is_some_and(|(tenant, _)| tenant == 1)).count();
        assert!((9..=11).contains(&first), "{first}");
    }

    #[test]
    fn coming_one_by_one_is_no_way_around_the_shares() {
        let mut room = Room::new(100);
        let mut got = [0u32; 2];
        for number in 0..50 {
            push(&mut room, 2, 1, number).unwrap();
        }
        for turn in 0..40 {
            let _ = room.push(1, 1, 4, 0, (1, turn)); // four rows each, and never two waiting by design
            let (tenant, _) = room.pop().unwrap();
            got[tenant as usize - 1] += if tenant == 1 { 4 } else { 1 };
            room.retain(|item| item.0 != 1);
        }
        assert!(got[0].abs_diff(got[1]) <= 5, "{got:?}");
    }

    #[test]
    fn within_a_tenant_higher_levels_come_first() {
        let mut room = Room::new(10);
        for (number, level) in [(0, 1), (1, 3), (2, 0), (3, 1), (4, 9)] {
            room.push(1, 1, 1, level, (1, number)).unwrap();
        }
        let taken: Vec<_> = std::iter::from_fn(|| room.pop()).map(|item| item.1).collect();
        assert_eq!(taken, [1, 4, 0, 3, 2]);
    }

    #[test]
    fn when_full_a_newcomer_within_its_share_displaces_the_newest_of_who_is_above() {
        let mut room = Room::new(6);
        for number in 0..6 {
            assert_eq!(push(&mut room, 1, 1, number), Ok(None));
        }
        assert_eq!(push(&mut room, 1, 1, 6), Err((1, 6)));
        for number in 0..3 {
            assert_eq!(push(&mut room, 2, 1, number), Ok(Some((1, 5 - number))));
        }
        assert_eq!(push(&mut room, 2, 1, 3), Err((2, 3)));
        assert_eq!(push(&mut room, 1, 1, 7), Err((1, 7)));
        // With three times the weight of each: 18/5 of the places.
        assert_eq!(push(&mut room, 3, 3, 0).unwrap().map(|item| item.1), Some(2));
        while let Ok(displaced) = push(&mut room, 3, 3, 1) {
            assert!(displaced.is_some());
        }
        assert_eq!(room.len(), 6);
        assert_eq!(counts(&room).last(), Some(&(3, 3)));
    }

    #[test]
    fn of_who_is_above_its_share_the_lowest_level_goes() {
        let mut room = Room::new(3);
        for (number, level) in [(0, 0), (1, 2), (2, 1)] {
            room.push(1, 1, 1, level, (1, number)).unwrap();
        }
        assert_eq!(push(&mut room, 2, 1, 0), Ok(Some((1, 0))));
    }

    #[test]
    fn with_more_tenants_than_places_nobody_is_pushed_around() {
        let mut room = Room::new(2);
        assert_eq!(push(&mut room, 1, 1, 0), Ok(None));
        assert_eq!(push(&mut room, 1, 1, 1), Ok(None));
        assert_eq!(push(&mut room, 2, 1, 0), Ok(Some((1, 1))));
        assert_eq!(push(&mut room, 3, 1, 0), Err((3, 0)));
        assert_eq!(Room::new(0).push(1, 1, 1, 0, (1, 0)), Err((1, 0)));
    }

    #[test]
    fn what_nobody_wants_any_more_can_be_taken_out() {
        let mut room = Room::new(100);
        for number in 0..10 {
            push(&mut room, 1 + u64::from(number % 3), 1, number).unwrap();
        }
        assert_eq!(room.remove(|item| item.1 == 4), Some((2, 4)));
        assert_eq!(room.remove(|item| item.1 == 4), None);
        let mut removed: Vec<_> = room.retain(|item| item.0 != 1).into_iter().map(|item| item.1).collect();
        removed.sort_unstable();
        assert_eq!((removed, room.len(), room.weights), (vec![0, 3, 6, 9], 5, 2));
        let taken: Vec<_> = std::iter::from_fn(|| room.pop()).map(|item| item.1).collect();
        assert_eq!(taken, [1, 2, 7, 5, 8]);
        assert_eq!((room.is_empty(), room.weights, room.order.len(), room.flows.len()), (true, 0, 0, 0));
    }

    #[test]
    fn tenants_that_have_gone_are_forgotten() {
        let mut room = Room::new(100);
        for number in 0..10_000u32 {
            push(&mut room, u64::from(number), 1, number).unwrap();
            if number > 10 {
                room.pop();
            }
        }
        assert!(room.flows.len() < 100, "{}", room.flows.len());
    }
}
