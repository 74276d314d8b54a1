//! A profile as one page that needs nothing else: no script, no address, pictures inside.

use super::chart::{self, Line};
use super::outlook;
use super::page::{STYLE, bytes, class, count, escape, percent, short, time, words};
use crate::config::ProfileMode;
use crate::profile::Kind;
use crate::profile::operators::Sums;
use crate::profile::recording::{MemorySample, ModelSummary, Recording, Request, Summary, slowest};
use serde_json::Value;
use std::fmt::Write;

/// So much fits on a page.
const SLOWEST: usize = 16;
const OPERATORS: usize = 25;
const MODELS: usize = 40;

pub fn html(recording: &Recording, trends: &Value, advice: &Value) -> String {
    let requests = recording.requests();
    let models = recording.models(&requests);
    let mut page = String::with_capacity(64 << 10);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Blaze profile</title><style>{STYLE}</style></head><body><main>"
    );
    head(&mut page, recording);
    tiles(&mut page, recording, &requests);
    outlook::advice(&mut page, advice);
    where_time_goes(&mut page, recording, &models);
    latency(&mut page, &models);
    slow_ones(&mut page, recording, &requests);
    for (name, sums) in &recording.operators {
        operators(&mut page, name, sums);
    }
    memory(&mut page, recording);
    outlook::trends(&mut page, trends);
    loads(&mut page, recording);
    threads(&mut page, recording);
    notes(&mut page, recording);
    page.push_str("</main></body></html>\n");
    page
}

pub fn section(page: &mut String, title: &str, about: &str) {
    let _ = write!(page, "<section><h2>{title}</h2><p class=\"sub\">{about}</p>");
}

fn head(page: &mut String, recording: &Recording) {
    let modes: Vec<&str> = recording.config.modes.iter().map(|mode| mode.name()).collect();
    let state = if recording.running { "still running" } else { "stopped" };
    let _ = write!(page, "<header><h1><b>Blaze</b> profile</h1>");
    for badge in [recording.config.level().name(), &modes.join(", "), state] {
        let _ = write!(page, "<span class=\"badge\">{}</span>", escape(badge));
    }
    let _ = write!(page, "<span class=\"dim\">version {}</span></header>", escape(crate::VERSION));
}

fn tiles(page: &mut String, recording: &Recording, requests: &[Request]) {
    let seconds = recording.duration_ns() as f64 / 1e9;
    let ok: Vec<u64> = requests.iter().filter(|request| request.status == 0).map(Request::ns).collect();
    let times = Summary::of(ok);
    let mut tile = |value: &str, name: &str| {
        let _ = write!(
            page,
            "<div class=\"tile\"><div class=\"v\">{value}</div><div class=\"n\">{name}</div></div>"
        );
    };
    let mut all: Vec<(String, String)> = vec![
        (time(recording.duration_ns() as f64), "profiled".into()),
        (
            count(recording.requests),
            format!("requests, {} a second", count((recording.requests as f64 / seconds.max(1e-9)) as u64)),
        ),
    ];
    if times.count > 0 {
        all.push((time(times.p50 as f64), "half of the requests within".into()));
        all.push((time(times.p99 as f64), "99&#8239;% within".into()));
    }
    if recording.batches > 0 {
        let per_batch = recording.requests as f64 / recording.batches as f64;
        all.push((short(per_batch), format!("requests a batch, {} batches", count(recording.batches))));
    }
    if let Some(last) = recording.memory.last() {
        all.push((bytes(last.used), "in the ledger at the end".into()));
    }
    if let Some(cpu) = recording.process_cpu_ns {
        all.push((short(cpu as f64 / recording.duration_ns().max(1) as f64), "cores busy on average".into()));
    }
    tile_row(&mut tile, &all);
    fn tile_row(tile: &mut dyn FnMut(&str, &str), all: &[(String, String)]) {
        all.iter().for_each(|(value, name)| tile(value, name));
    }
}

fn where_time_goes(page: &mut String, recording: &Recording, models: &[ModelSummary]) {
    if !recording.config.has(ProfileMode::Cpu) {
        return;
    }
    let counts = &recording.counts;
    let about = format!(
        "From submit until the host takes the event, by {} requests of {} batches that were recorded.",
        count(models.iter().map(|model| model.total.count + model.failed).sum()),
        count(counts.batches)
    );
    section(page, "Where a request’s time goes", &about);
    page.push_str(&chart::legend(&Kind::OF_REQUESTS));
    for model in models.iter().filter(|model| !model.time.is_empty()).take(MODELS) {
        let all: u64 = model.time.iter().map(|(_, ns)| ns).sum();
        let recorded = (model.total.count + model.failed).max(1);
        let _ = write!(
            page,
            "<h3>{} <span class=\"dim\">{} on average, {} rows a batch</span></h3><div class=\"bar\">",
            escape(&model.name),
            time(all as f64 / recorded as f64),
            short(model.rows_per_batch)
        );
        for (kind, ns) in &model.time {
            let share = *ns as f64 / all.max(1) as f64;
            let label = if share >= 0.07 { percent(share) } else { String::new() };
            let _ = write!(
                page,
                "<span class=\"{}\" style=\"width:{:.3}%\" title=\"{}: {}, {}\">{label}</span>",
                class(*kind),
                share * 100.0,
                words(*kind),
                time(*ns as f64 / recorded as f64),
                percent(share)
            );
        }
        page.push_str("</div>");
    }
    kinds_table(page, models);
    page.push_str("</section>");
}

fn kinds_table(page: &mut String, models: &[ModelSummary]) {
    page.push_str(
        "<h3>In numbers</h3><div class=\"scroll\"><table><tr><th>model</th><th class=\"t\">what</th><th>recorded</th>\
         <th>mean</th><th>half within</th><th>90&#8239;%</th><th>99&#8239;%</th><th>longest</th></tr>",
    );
    let mut line = |model: &str, what: &str, times: &Summary| {
        let _ = write!(
            page,
            "<tr><td class=\"t\">{}</td><td class=\"t\">{what}</td><td>{}</td>",
            escape(model),
            count(times.count)
        );
        for ns in [times.mean, times.p50 as f64, times.p90 as f64, times.p99 as f64, times.max as f64] {
            let _ = write!(page, "<td>{}</td>", time(ns));
        }
        page.push_str("</tr>");
    };
    for model in models.iter().take(MODELS) {
        if model.total.count > 0 {
            line(&model.name, "<b>all of it</b>", &model.total);
        }
        for (kind, times) in &model.kinds {
            let part = kind.part_of().map_or(String::new(), |whole| {
                format!(" <span class=\"dim\">part of {}</span>", words(whole))
            });
            line("", &format!("{}{part}", words(*kind)), times);
        }
    }
    page.push_str("</table></div>");
}

fn latency(page: &mut String, models: &[ModelSummary]) {
    let lines: Vec<(String, &[u64])> = models
        .iter()
        .filter(|model| !model.totals.is_empty())
        .take(5)
        .map(|model| (model.name.clone(), model.totals.as_slice()))
        .collect();
    if lines.is_empty() {
        return;
    }
    section(page, "Latency", "How many of the recorded requests are how fast; both axes are logarithmic.");
    page.push_str(&chart::quantiles(&lines));
    page.push_str("</section>");
}

fn slow_ones(page: &mut String, recording: &Recording, requests: &[Request]) {
    let slow = slowest(requests, SLOWEST);
    if slow.is_empty() {
        return;
    }
    section(page, "The slowest requests", "From submit to delivery; point at a part for its time.");
    let mut kinds = Kind::OF_REQUESTS.to_vec();
    kinds.extend([Kind::Batch, Kind::EvictionWait]);
    page.push_str(&chart::legend(&kinds));
    page.push_str(&chart::timeline(recording, &slow));
    page.push_str("</section>");
}

fn operators(page: &mut String, name: &str, sums: &Sums) {
    let all = sums.operators();
    let about = format!(
        "By ONNX Runtime’s own profile of {} runs, {} each; of that {} in operators. Whole microseconds.",
        count(sums.runs),
        time(sums.run_us as f64 * 1000.0 / sums.runs.max(1) as f64),
        percent(sums.total_us() as f64 / sums.run_us.max(1) as f64)
    );
    section(page, &format!("Operators of {}", escape(name)), &about);
    page.push_str(
        "<div class=\"scroll\"><table><tr><th>operator</th><th class=\"t\">type</th><th class=\"t\">provider</th>\
         <th>runs</th><th>mean</th><th class=\"t\">share</th></tr>",
    );
    for operator in all.iter().take(OPERATORS) {
        let share = operator.total_us as f64 / sums.total_us().max(1) as f64;
        let _ = write!(
            page,
            "<tr><td class=\"t\">{}</td><td class=\"t\">{}</td><td class=\"t\">{}</td><td>{}</td><td>{}</td>\
             <td class=\"t\"><span class=\"meter\"><i style=\"width:{:.1}%\"></i></span>{}</td></tr>",
            escape(&operator.name),
            escape(&operator.op),
            escape(operator.provider.trim_end_matches("ExecutionProvider")),
            count(operator.count),
            time(operator.total_us as f64 * 1000.0 / operator.count.max(1) as f64),
            share * 100.0,
            percent(share)
        );
    }
    page.push_str("</table></div>");
    if all.len() > OPERATORS {
        let _ = write!(page, "<p class=\"dim\">and {} others</p>", all.len() - OPERATORS);
    }
    page.push_str("</section>");
}

fn memory(page: &mut String, recording: &Recording) {
    let samples = &recording.memory;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
    let (hits, misses) =
        (last.pool_hits.saturating_sub(first.pool_hits), last.pool_misses.saturating_sub(first.pool_misses));
    let about = format!(
        "{} blocks were taken from the pool, {} of them had to be allocated; {} models left memory.",
        count(hits + misses),
        count(misses),
        count(last.evictions.saturating_sub(first.evictions))
    );
    section(page, "Memory", &about);
    let line = |name: &str, value: fn(&MemorySample) -> Option<u64>| Line {
        name: name.into(),
        points: samples
            .iter()
            .filter_map(|sample| {
                let seconds = sample.at_ns.saturating_sub(recording.started_ns) as f64 / 1e9;
                Some((seconds, value(sample)? as f64))
            })
            .collect(),
    };
    let ledger = [
        line("models", |sample| Some(sample.models)),
        line("buffers", |sample| Some(sample.buffers)),
        line("of them idle", |sample| Some(sample.idle)),
        line("caches", |sample| Some(sample.caches)),
    ];
    let process = [line("process", |sample| sample.resident), line("heap in use", |sample| sample.heap)];
    let label = |value: f64| bytes(value as u64);
    page.push_str("<div class=\"two\"><div><h3>The engine’s ledger</h3>");
    page.push_str(&chart::lines(&ledger, label));
    page.push_str("</div><div><h3>The process</h3>");
    page.push_str(&chart::lines(&process, label));
    page.push_str("</div></div></section>");
}

fn loads(page: &mut String, recording: &Recording) {
    let wanted = |kind| matches!(kind, Kind::Load | Kind::Evict | Kind::Io);
    let all: Vec<_> = recording.rare.iter().filter(|rare| wanted(rare.kind)).collect();
    if all.is_empty() {
        return;
    }
    section(page, "Loads and evictions", "What came into memory, and what left it.");
    page.push_str(
        "<div class=\"scroll\"><table><tr><th>model</th><th class=\"t\">what</th><th class=\"t\">detail</th><th>at</th>\
         <th>took</th><th>bytes</th></tr>",
    );
    for rare in all.iter().rev().take(60) {
        let _ = write!(
            page,
            "<tr><td class=\"t\">{}</td><td class=\"t\">{}</td><td class=\"t\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&rare.name),
            words(rare.kind),
            if rare.status == 0 {
                escape(&rare.detail)
            } else {
                format!("failed with status {}", rare.status)
            },
            time(rare.start_ns.saturating_sub(recording.started_ns) as f64),
            time(rare.ns() as f64),
            bytes(rare.bytes)
        );
    }
    page.push_str("</table></div></section>");
}

fn threads(page: &mut String, recording: &Recording) {
    let busy: Vec<_> = recording.threads.iter().filter(|thread| thread.cpu_ns > 0).take(24).collect();
    if busy.is_empty() || !recording.config.has(ProfileMode::Cpu) {
        return;
    }
    section(page, "Threads", "CPU time of the process’s threads that are there at the end.");
    page.push_str("<div class=\"scroll\"><table><tr><th>thread</th><th>CPU time</th><th class=\"t\">of a core</th></tr>");
    for thread in busy {
        let share = thread.cpu_ns as f64 / recording.duration_ns().max(1) as f64;
        let _ = write!(
            page,
            "<tr><td class=\"t\">{}</td><td>{}</td><td class=\"t\"><span class=\"meter\"><i style=\"width:{:.1}%\"></i></span>{}</td></tr>",
            escape(&thread.name),
            time(thread.cpu_ns as f64),
            (share * 100.0).min(100.0),
            percent(share)
        );
    }
    page.push_str("</table></div></section>");
}

fn notes(page: &mut String, recording: &Recording) {
    let counts = &recording.counts;
    section(page, "About this profile", "");
    let _ = write!(
        page,
        "<p>{} spans were recorded in {} of rings; {} of them were overwritten by later ones, and {} dropped.</p>",
        count(counts.recorded),
        bytes(counts.bytes),
        count(counts.overwritten),
        count(counts.dropped)
    );
    if recording.config.has(ProfileMode::Network) {
        page.push_str("<p>Network: this build has no remote targets, so there is nothing to record.</p>");
    }
    for note in &recording.notes {
        let _ = write!(page, "<p>{}</p>", escape(note));
    }
    page.push_str("</section>");
}
