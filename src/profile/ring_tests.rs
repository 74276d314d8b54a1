//! Tests of the ring of spans; `tests/loom/spans.rs` has the interleavings.

use super::ring::Ring;

#[test]
fn the_newest_overwrite_the_oldest() {
    let ring: Ring<2> = Ring::new(4);
    assert_eq!(ring.read(), Vec::<[u64; 2]>::new());
    (0..6).for_each(|number| ring.push([number, 10 * number]));
    assert_eq!(ring.read(), [[2, 20], [3, 30], [4, 40], [5, 50]]);
    assert_eq!((ring.counts(), ring.bytes()), ((6, 2, 0), 4 * 64));
}

#[test]
fn what_is_read_was_written_as_a_whole() {
    let ring: Ring<7> = Ring::new(64);
    std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let ring = &ring;
            scope.spawn(move || (0..20_000).for_each(|number| ring.push([writer << 32 | number; 7])));
        }
        for _ in 0..200 {
            for words in ring.read() {
                assert!(words.iter().all(|word| *word == words[0]), "{words:x?}");
            }
        }
    });
    assert_eq!(ring.counts().0, 60_000);
}
