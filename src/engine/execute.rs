//! Execution of one batch: claim the requests, join their inputs, run, hand out the outputs.

use super::Ticket;
use super::completion::CompletionQueue;
use super::event::Event;
use super::lifecycle::Core;
use super::models::LoadedModel;
use super::outcome::Outcome;
use super::requests::Run;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::panics::catch;
use crate::scheduler::join::{Inputs, join};
use crate::scheduler::queue::Item;
use crate::tensor::{Data, Tensor};
use std::sync::Arc;

struct Claimed {
    ticket: Ticket,
    rows: usize,
    inputs: Inputs,
}

/// Runs a batch that a queue has given out. Every request in it is resolved when this returns.
pub fn execute(core: &Core, model: &LoadedModel, items: Vec<Item<Ticket>>) {
    let tickets: Vec<Ticket> = items.iter().map(|item| item.work).collect();
    let done = catch(|| {
        claim_and_run(core, model, items);
        Ok(())
    });
    if let Err(error) = done {
        // A bug of the engine's own: the batch fails, the lane goes on.
        let now = now_ns();
        let results = tickets.into_iter().map(|ticket| (ticket, Err(error.clone()))).collect();
        finish(core, results, now, now, 0);
    }
}

fn claim_and_run(core: &Core, model: &LoadedModel, items: Vec<Item<Ticket>>) {
    let run = Arc::new(Run::new());
    let claimed: Vec<Claimed> = items
        .into_iter()
        .filter_map(|item| {
            let inputs = core.requests.claim(item.work, &run)?;
            Some(Claimed { ticket: item.work, rows: item.rows, inputs })
        })
        .collect();
    run.leave();
    match core.gate.enter(&run.interrupt) {
        Some(_pass) => {
            run_claimed(core, model, claimed, &run, &mut |error| model.record_outcome(error, &core.logger));
        }
        None => give_up(core, claimed),
    }
}

/// Ends requests that nobody wants any more. Their buffers must be given back all the same.
fn give_up(core: &Core, claimed: Vec<Claimed>) {
    let tickets: Vec<Ticket> = claimed.iter().map(|request| request.ticket).collect();
    drop(claimed);
    let given_up = || Err(Error::new(Status::Cancelled, "nobody wants the result"));
    let now = now_ns();
    finish(core, tickets.into_iter().map(|ticket| (ticket, given_up())).collect(), now, now, 0);
}

/// Runs requests and resolves them. How it went, which says something about the model, is told to `record` before the
/// host hears of it.
fn run_claimed(
    core: &Core,
    model: &LoadedModel,
    claimed: Vec<Claimed>,
    run: &Run,
    record: &mut dyn FnMut(Option<&Error>),
) {
    if run.interrupt.is_raised() {
        return give_up(core, claimed);
    }
    let requests: Vec<(Ticket, usize)> =
        claimed.iter().map(|request| (request.ticket, request.rows)).collect();
    let rows: usize = requests.iter().map(|(_, rows)| rows).sum();
    let joined = requests.len() > 1;
    // Kept for a second try one by one: if a joined run fails, one request may be to blame.
    let inputs: Vec<Inputs> = claimed.into_iter().map(|request| request.inputs).collect();
    let started = now_ns();
    let (result, inputs) = run_backend(model, inputs, joined.then_some(rows), run);
    let ended = now_ns();
    core.metrics.computed.record(ended.saturating_sub(started));
    for traffic in [&core.metrics.traffic, &*model.traffic()] {
        traffic.batches.add(1);
        traffic.rows.add(rows as u64);
    }
    let given_up = run.interrupt.is_raised();
    match (result, inputs) {
        (Err(error), Some(inputs)) if error.status == Status::BackendFailed && !given_up => {
            // However many fail again, it is one failure of one batch.
            let mut failed = false;
            let mut record_once = |error: Option<&Error>| {
                if !(error.is_some() && std::mem::replace(&mut failed, true)) {
                    record(error);
                }
            };
            for ((ticket, rows), inputs) in requests.into_iter().zip(inputs) {
                let alone = Arc::new(Run::new()); // so that each can be given up without the others
                core.requests.move_to(ticket, &alone);
                alone.leave();
                let claimed = vec![Claimed { ticket, rows, inputs }];
                run_claimed(core, model, claimed, &alone, &mut record_once);
            }
        }
        (result, inputs) => {
            drop(inputs); // before any event says that borrowed buffers are free
            let mut first = 0;
            if !given_up {
                record(result.as_ref().err());
            }
            let batch = result.map(Arc::new);
            let results = requests
                .into_iter()
                .map(|(ticket, count)| {
                    let part = joined.then_some((first, count, rows));
                    first += count;
                    let outcome = batch.as_ref().map_err(Error::clone).map(|batch| Outcome {
                        signature: Arc::clone(model.signature()),
                        batch: Arc::clone(batch),
                        rows: part,
                    });
                    (ticket, outcome)
                })
                .collect();
            finish(core, results, started, ended, rows);
        }
    }
}

/// Joins the inputs if there are several, and calls the backend. The requests' own inputs come back when the
/// run was joined, so that they can be run again.
fn run_backend(
    model: &LoadedModel,
    mut requests: Vec<Inputs>,
    joined_rows: Option<usize>,
    run: &Run,
) -> (Result<Vec<Tensor>>, Option<Vec<Inputs>>) {
    let Some(rows) = joined_rows else {
        let inputs = requests.pop().unwrap_or_default();
        let result = catch(|| model.backend().run(&inputs, &run.interrupt));
        return (result.and_then(|outputs| check_outputs(model, outputs, None)), None);
    };
    let result = catch(|| {
        let inputs = join(&requests)?;
        model.backend().run(&inputs, &run.interrupt)
    });
    (result.and_then(|outputs| check_outputs(model, outputs, Some(rows))), Some(requests))
}

/// A backend that breaks its word must not make the engine hand out memory that is not there.
fn check_outputs(
    model: &LoadedModel,
    outputs: Vec<Tensor>,
    joined_rows: Option<usize>,
) -> Result<Vec<Tensor>> {
    let specs = &model.signature().outputs;
    if outputs.len() != specs.len() {
        return Err(Error::new(
            Status::Internal,
            format!("the backend returned {} outputs of {}", outputs.len(), specs.len()),
        ));
    }
    for (tensor, spec) in outputs.iter().zip(specs) {
        let splits = joined_rows.is_none_or(|rows| tensor.shape.first() == Some(&(rows as i64)));
        let complete = match &tensor.data {
            Data::Strings(_) => joined_rows.is_none(),
            _ => crate::tensor::size_bytes(tensor.dtype, &tensor.shape)? == tensor.bytes().len(),
        };
        if !splits || !complete || tensor.dtype != spec.dtype {
            return Err(Error::new(
                Status::BackendFailed,
                format!(
                    "output {:?} came back as {} {:?} with {} bytes, which does not fit the batch",
                    spec.name,
                    tensor.dtype.name(),
                    tensor.shape,
                    tensor.bytes().len()
                ),
            ));
        }
    }
    Ok(outputs)
}

/// Resolves requests and publishes their events, one completion queue at a time.
fn finish(core: &Core, results: Vec<(Ticket, Result<Outcome>)>, started: u64, ended: u64, rows: usize) {
    // Without threads nobody looked at the clock during the run: what is overdue has expired all the same.
    core.expire();
    let mut published: Vec<(Arc<CompletionQueue>, Vec<Event>)> = Vec::new();
    let mut terminal = 0;
    for (ticket, result) in results {
        let Some(completion) = core.requests.complete(ticket, result, started, ended, rows as u32) else {
            continue;
        };
        terminal += u64::from(completion.is_terminal);
        match published.iter_mut().find(|(queue, _)| Arc::ptr_eq(queue, &completion.queue)) {
            Some((_, events)) => events.push(completion.event),
            None => published.push((completion.queue, vec![completion.event])),
        }
    }
    for (queue, events) in published {
        queue.publish(events);
    }
    core.requests.settle(terminal);
}
