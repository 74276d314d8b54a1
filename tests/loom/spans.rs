//! The ring of spans: what is read was written as a whole, whoever else writes meanwhile.

use crate::ring::Ring;
use crate::sync::{Seen, explore};
use crate::{join, spawn};
use loom::sync::Arc;

fn assert_whole(read: &[[u64; 2]]) {
    for [first, second] in read {
        assert_eq!(10 * first, *second, "half of one span and half of another");
    }
}

/// One writes twice over the same place while another reads.
#[test]
fn a_reader_sees_whole_spans_only() {
    explore(Seen::AsLate, 4, || {
        let ring = Arc::new(Ring::<2>::new(1));
        let writer = spawn(&ring, |ring| {
            ring.push([1, 10]);
            ring.push([2, 20]);
        });
        assert_whole(&ring.read());
        join([writer]);
        assert_eq!(ring.read(), [[2, 20]]);
    });
}

/// Two write, and the ring has but one place: the one that comes late gives up, or the other one does.
#[test]
fn writers_do_not_mix_what_they_write() {
    explore(Seen::AsLate, 3, || {
        let ring = Arc::new(Ring::<2>::new(1));
        let writers =
            [1, 2].map(|number| spawn(&ring, move |ring: &Ring<2>| ring.push([number, 10 * number])));
        assert_whole(&ring.read());
        join(writers);
        let read = ring.read();
        assert_whole(&read);
        let (given, overwritten, dropped) = ring.counts();
        assert_eq!((given, overwritten, read.len()), (2, 1, 1));
        assert!(dropped <= 1);
    });
}

/// In places of their own nothing is lost.
#[test]
fn writers_have_places_of_their_own() {
    explore(Seen::AsLate, 3, || {
        let ring = Arc::new(Ring::<2>::new(2));
        let writers =
            [1, 2].map(|number| spawn(&ring, move |ring: &Ring<2>| ring.push([number, 10 * number])));
        join(writers);
        let mut read = ring.read();
        read.sort_unstable();
        assert_eq!((read, ring.counts().2), (vec![[1, 10], [2, 20]], 0));
    });
}
