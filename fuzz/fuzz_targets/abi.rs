//! Sequences of calls of the C ABI, with hostile arguments, by up to three threads at once. Every accepted ticket has exactly one
//! terminal event, no call is a bug of Blaze's, and nothing is leaked.
#![no_main]

use arbitrary::Arbitrary;
use blaze_fuzz::calls::Call;
use blaze_fuzz::host::Host;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Program {
    threads: u8,
    alone: Vec<Call>,
    beside: Vec<Call>,
    third: Vec<Call>,
}

/// As many calls are made; the rest is for other inputs.
const MOST_CALLS: usize = 64;

fuzz_target!(|program: Program| {
    let some = |calls: &Vec<Call>| calls[..calls.len().min(MOST_CALLS)].to_vec();
    let (alone, beside, third) = (some(&program.alone), some(&program.beside), some(&program.third));
    let shared = !beside.is_empty() || !third.is_empty();
    let host = Host::new(u32::from(program.threads % 3), shared);
    if shared {
        std::thread::scope(|scope| {
            let others = [scope.spawn(|| host.run(&beside)), scope.spawn(|| host.run(&third))];
            host.run(&alone);
            // A scope waits for what its threads do, not for their ends, in which LeakSanitizer does not see what they hold.
            others.into_iter().for_each(|thread| thread.join().unwrap());
        });
    } else {
        host.run(&alone);
    }
    host.end();
});
