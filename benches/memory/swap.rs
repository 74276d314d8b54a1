//! A name whose versions change under load: every request gets an answer, from no version that is older than what was
//! there when it was submitted.

use crate::abi::{Engine, Queue, Request, must};
use crate::mlp::{Known, Mlp, folder};
use crate::process::{mb_between, resident};
use crate::report::Goal;
use crate::{Bench, number};
use blaze::ffi::handles::blaze_model;
use blaze::ffi::status::BLAZE_STATUS_OK;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const THREADS: u64 = 2;
/// Between two requests of one thread: 5000 requests/s together.
const PERIOD: Duration = Duration::from_micros(1_000_000 * THREADS / 5000);
const NAME: &str = "swapped";
/// Every so many versions one is broken.
const BROKEN: u64 = 4;

pub fn measure(bench: &mut Bench) {
    let Some(found) = bench.child("swap") else { return };
    let get = |key: &str| number(&found, key);
    let note =
        format!("of {} requests, {:.0}/s; {}", get("requests"), get("per_second"), found["first_failure"]);
    bench.add("swap: failed requests".into(), get("failed"), Goal::Exactly(0.0), "", note);
    let note =
        format!("{} versions, {} of them broken, {} rescans", get("versions"), get("broken"), get("rescans"));
    bench.add("swap: answers that are no version's".into(), get("wrong"), Goal::Exactly(0.0), "", note);
    let note = found["first_older"].as_str().unwrap_or_default().to_owned();
    bench.add("swap: answers of an older version".into(), get("older"), Goal::Exactly(0.0), "", note);
    bench.add(
        "swap: rescans that did not do as they should".into(),
        get("rescans_failed"),
        Goal::Exactly(0.0),
        "",
        found["rescan_failure"].as_str().unwrap_or_default().into(),
    );
    let note = format!(
        "p99 {:.0} µs, p99.9 {:.0} µs, max {:.1} ms",
        get("p99_us"),
        get("p999_us"),
        get("max_us") / 1e3
    );
    bench.add("swap: latency from when it was due, p50".into(), get("p50_us"), Goal::None, "µs", note);
    let note = format!("max {:.1} ms", get("rescan_max_ms"));
    bench.add("swap: rescan with a new version, p50".into(), get("rescan_p50_ms"), Goal::None, "ms", note);
    bench.add("swap: grown by the swaps".into(), get("grown_mb"), Goal::AtMost(10.0), "MB", String::new());
}

fn version(version: u64) -> Mlp {
    Mlp::new(&[64, 256, 256, 8], 5000 + version)
}

/// Puts a version in its place, all at once.
fn put(repository: &Path, number: u64, is_broken: bool) {
    let making = repository.with_extension("making");
    let write = || {
        fs::create_dir_all(&making)?;
        let file = making.join("model.onnx");
        version(number).write(&file)?;
        if is_broken {
            let whole = fs::read(&file)?;
            fs::write(&file, &whole[..whole.len() / 2])?;
        }
        fs::rename(&making, repository.join(NAME).join(number.to_string()))
    };
    write().expect("the repository can be written to");
}

struct Shared<'a> {
    engine: &'a Engine,
    model: blaze_model,
    known: &'a [Known],
    /// Requests that are submitted from now on must get this version or a newer one.
    floor: AtomicU64,
    over: AtomicBool,
}

#[derive(Default)]
struct Traffic {
    requests: u64,
    failed: u64,
    wrong: u64,
    older: u64,
    first_failure: Option<String>,
    first_older: Option<String>,
    latencies_us: Vec<f64>,
}

impl Traffic {
    fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(reason);
    }

    fn merge(&mut self, other: Traffic) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.wrong += other.wrong;
        self.older += other.older;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.first_older = self.first_older.take().or(other.first_older);
        self.latencies_us.extend(other.latencies_us);
    }
}

/// Submits when it is due, however the engine does, and looks at every answer.
fn ask(shared: &Shared<'_>) -> Traffic {
    let mut queue = Queue::new(shared.engine, 1 << 16);
    let mut request = Request::new(shared.model, &shared.known[0]);
    let (mut traffic, mut floors) = (Traffic::default(), Vec::<u64>::new());
    let (began, mut taken) = (Instant::now(), 0);
    loop {
        let over = shared.over.load(Ordering::Relaxed);
        if over && taken == floors.len() {
            break;
        }
        let due = PERIOD * traffic.requests as u32;
        let now = began.elapsed();
        if now >= due && !over {
            traffic.requests += 1;
            let number = floors.len() as u64;
            floors.push(shared.floor.load(Ordering::SeqCst));
            if let Err(failure) = queue.submit(&mut request, number) {
                floors.pop();
                traffic.fail(format!("submit: status {}: {}", failure.status, failure.reason));
            }
            // Refused ones would shift the others' times.
            if floors.len() as u64 != traffic.requests {
                return traffic;
            }
            continue;
        }
        let wait = due.saturating_sub(now).as_nanos() as u64;
        let wait = if over { 5_000_000_000 } else { wait };
        let count = queue.wait(wait, |event| {
            taken += 1;
            let number = event.user_data as usize;
            let late = began.elapsed().saturating_sub(PERIOD * number as u32);
            traffic.latencies_us.push(late.as_secs_f64() * 1e6);
            if event.status != BLAZE_STATUS_OK {
                return traffic.fail(format!("status {}: {}", event.status, event.text));
            }
            // The newest first: it is nearly always one of the last two.
            match shared.known.iter().rposition(|known| known.is_right(&event.output)) {
                None => traffic.wrong += 1,
                Some(version) if (version as u64) < floors[number] => {
                    traffic.older += 1;
                    let floor = floors[number];
                    traffic
                        .first_older
                        .get_or_insert(format!("version {version} instead of {floor} or newer"));
                }
                Some(_) => (),
            }
        });
        if count == 0 && over {
            traffic.fail(format!("{} events have not come for 5 s", floors.len() - taken));
            break;
        }
    }
    traffic
}

pub fn child(quick: bool) -> Value {
    let (versions, pause) = if quick { (10, 150) } else { (40, 500) };
    // Version 0 is there only so that numbers are places.
    let known: Vec<Known> = (0..=versions + 1).map(|number| version(number).known(0)).collect();
    for (number, one) in known.iter().enumerate() {
        assert!(known[..number].iter().all(|other| one.differs_from(other)), "two versions answer alike");
    }
    let repository: PathBuf = folder().join(format!("repository-{}", std::process::id()));
    fs::create_dir_all(repository.join(NAME)).expect("target/ can be written to");
    put(&repository, 1, false);
    let engine = Engine::new(&json!({"repository": {"directory": repository}}));
    let model = must("blaze_model_find", engine.find(NAME));
    let shared = Shared {
        engine: &engine,
        model,
        known: &known,
        floor: AtomicU64::new(1),
        over: AtomicBool::new(false),
    };
    let (mut rescans, mut broken, mut rescan_ms) = (0, 0, Vec::new());
    let failures = Mutex::new(Vec::<String>::new());
    let mut grown_mb = 0.0;
    let began = Instant::now();
    let mut traffic = scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| ask(&shared))).collect();
        let step = |what: &str, number: u64, removed: &[u64], floor: u64| -> f64 {
            let at = Instant::now();
            if let Err(failure) = engine.rescan() {
                let text = format!("{what} {number}: status {}: {}", failure.status, failure.reason);
                failures.lock().unwrap().push(text);
            }
            let ms = at.elapsed().as_secs_f64() * 1e3;
            let newest = engine.health()["repository"]["models"][0]["newest"].as_u64();
            if newest != Some(floor) {
                let text = format!("{what} {number} (removed {removed:?}): serves {newest:?}, not {floor}");
                failures.lock().unwrap().push(text);
            }
            shared.floor.store(floor, Ordering::SeqCst);
            ms
        };
        sleep(Duration::from_millis(200));
        let (mut there, mut floor, mut resident_then) = (vec![1], 1, 0);
        for number in 2..=versions + 1 {
            let at = Instant::now();
            let is_broken = number % BROKEN == 0;
            put(&repository, number, is_broken);
            broken += u64::from(is_broken);
            let newest = if is_broken { floor } else { number };
            let ms = step("version", number, &[], newest);
            if !is_broken {
                rescan_ms.push(ms);
            }
            rescans += 1;
            floor = newest;
            there.push(number);
            // What is not served any more goes; what is broken a while later, for the next one comes over it.
            let (gone, stays): (Vec<u64>, Vec<u64>) =
                there.iter().partition(|&&one| one < floor || (one < number && one != floor));
            gone.iter().for_each(|one| {
                fs::remove_dir_all(repository.join(NAME).join(one.to_string())).expect("it can be removed");
            });
            there = stays;
            step("after version", number, &gone, floor);
            rescans += 1;
            if number == versions / 4 {
                resident_then = resident();
            }
            sleep(Duration::from_millis(pause).saturating_sub(at.elapsed()));
        }
        grown_mb = mb_between(resident_then, resident());
        shared.over.store(true, Ordering::SeqCst);
        let mut all = Traffic::default();
        threads.into_iter().for_each(|thread| all.merge(thread.join().unwrap()));
        all
    });
    let seconds = began.elapsed().as_secs_f64();
    drop(engine);
    let _ = fs::remove_dir_all(&repository);
    let failures = failures.into_inner().unwrap();
    rescan_ms.sort_by(f64::total_cmp);
    let latencies = &mut traffic.latencies_us;
    latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    json!({
        "requests": traffic.requests,
        "per_second": traffic.requests as f64 / seconds,
        "failed": traffic.failed,
        "wrong": traffic.wrong,
        "older": traffic.older,
        "first_failure": traffic.first_failure.unwrap_or_default(),
        "first_older": traffic.first_older.unwrap_or_default(),
        "versions": versions,
        "broken": broken,
        "rescans": rescans,
        "rescans_failed": failures.len(),
        "rescan_failure": failures.first().cloned().unwrap_or_default(),
        "rescan_p50_ms": rescan_ms[rescan_ms.len() / 2],
        "rescan_max_ms": rescan_ms[rescan_ms.len() - 1],
        "p50_us": quantile(0.5),
        "p99_us": quantile(0.99),
        "p999_us": quantile(0.999),
        "max_us": quantile(1.0),
        "grown_mb": grown_mb,
    })
}
