//! Runs: of batches in memory that is used again and again, for which everything on the device is at fixed addresses, and of
//! requests with tensors of their own, which may be on the device already.

use crate::abi::backend::{blaze_backend_batch, blaze_backend_run};
use crate::abi::status::{BLAZE_STATUS_BACKEND_FAILED, BLAZE_STATUS_OUT_OF_MEMORY, BLAZE_STATUS_UNSUPPORTED};
use crate::abi::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_HOST, BLAZE_MEMORY_PINNED, blaze_tensor};
use crate::device::{Device, Entered, lock};
use crate::driver::{self, Address, ExecHandle, StreamHandle};
use crate::expression::Sizes;
use crate::failure::{Failure, Result};
use crate::host::{Block, Call};
use crate::model::{Chosen, Model, Part};
use crate::plan::{self, Addresses, Amounts, Plan};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Memory that batches are run in, and what is ready for it on each device.
pub struct Prepared {
    joined: bool,
    max_rows: u32,
    /// The inputs' shapes, with all rows.
    shapes: Vec<Vec<i64>>,
    /// Where the first rows of the inputs and of the outputs are; empty: not known.
    host: Hosts,
    sides: Mutex<Vec<Option<Side>>>,
}

/// Where the rows of a run are in host memory, inputs first.
type Hosts = Vec<usize>;

/// What is ready on a device.
struct Side {
    generation: u64,
    room: Amounts,
    addresses: Addresses,
    /// By rows.
    plans: HashMap<u32, Plan>,
    /// By rows, for batches that begin with the first row. Dropped before the memory they work on.
    graphs: HashMap<u32, Graph>,
    _memory: Block,
}

/// Copies and kernels as one launch.
struct Graph {
    device: Arc<Device>,
    generation: u64,
    exec: ExecHandle,
    hosts: Hosts,
}

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(entered) = self.device.enter(Some(self.generation)) {
            // SAFETY: it is of this generation, and not under way.
            if let Err(error) = unsafe { entered.driver().graph_exec_destroy(self.exec) } {
                entered.failure(error);
            }
        }
    }
}

/// The tensors of an array of C's, which may be of a later version's structs.
///
/// # Safety
/// There are as many tensors, so far apart, for as long as the result is used.
pub unsafe fn tensors<'a>(first: *const blaze_tensor, count: u32, stride: u32) -> Vec<&'a blaze_tensor> {
    // SAFETY: promised by the caller.
    (0..count as usize)
        .filter_map(|index| unsafe { first.byte_add(index * stride as usize).as_ref() })
        .collect()
}

/// # Safety
/// The tensor's shape is there, for as long as the result is used.
unsafe fn shape_of(tensor: &blaze_tensor) -> &[i64] {
    match tensor.rank {
        0 => &[],
        // SAFETY: promised by the caller.
        rank if !tensor.shape.is_null() => unsafe { std::slice::from_raw_parts(tensor.shape, rank as usize) },
        _ => &[],
    }
}

impl Prepared {
    /// # Safety
    /// The batch is as `blaze_backend_batch` says, until this returns.
    pub unsafe fn new(model: &Model, batch: &blaze_backend_batch, call: Call) -> Result<Self> {
        // SAFETY: promised by the caller.
        let (inputs, outputs) = unsafe {
            let stride = batch.tensor_stride;
            (
                tensors(batch.inputs, batch.inputs_count, stride),
                tensors(batch.outputs, batch.outputs_count, stride),
            )
        };
        // SAFETY: as above.
        let shapes = inputs.iter().map(|tensor| unsafe { shape_of(tensor) }.to_vec()).collect();
        let host = inputs.iter().chain(&outputs).map(|tensor| tensor.data as usize).collect();
        let prepared = Prepared {
            joined: batch.joined != 0,
            max_rows: batch.max_rows,
            shapes,
            host: if outputs.is_empty() { Vec::new() } else { host },
            sides: Mutex::new(model.parts.iter().map(|_| None).collect()),
        };
        let mut sides = lock(&prepared.sides);
        for (part, side) in model.parts.iter().zip(sides.iter_mut()) {
            // A device that is lost may be back when it is wanted.
            if part.device.has(part.generation) {
                *side = Some(prepared.side(model, part, call)?);
            }
        }
        drop(sides);
        Ok(prepared)
    }

    /// The sizes of a run of so many rows.
    fn sizes(&self, model: &Model, rows: u32) -> Result<Sizes> {
        let mut shapes = self.shapes.clone();
        if self.joined {
            shapes.iter_mut().filter_map(|shape| shape.first_mut()).for_each(|size| *size = i64::from(rows));
        }
        let shapes: Vec<&[i64]> = shapes.iter().map(Vec::as_slice).collect();
        model.manifest.sizes(&shapes).map_err(Failure::shape)
    }

    /// Takes memory for batches of any number of rows, and makes the graphs.
    fn side(&self, model: &Model, part: &Part, call: Call) -> Result<Side> {
        let room = Amounts::of(&model.manifest, &self.sizes(model, self.max_rows)?)?;
        let (places, bytes) = room.places()?;
        let memory = call.take_buffers(&part.device, bytes.max(1))?;
        let mut side = Side {
            generation: part.generation,
            room,
            addresses: places.within(memory.address, part.weights_address()),
            plans: HashMap::new(),
            graphs: HashMap::new(),
            _memory: memory,
        };
        let rows =
            model.buckets.iter().copied().filter(|&rows| self.joined && (1..=self.max_rows).contains(&rows));
        for rows in rows.filter(|_| !self.host.is_empty()) {
            let entered = part.device.enter(Some(part.generation))?;
            self.plan(&mut side, model, rows)?;
            match self.graph(&side, &entered, part, model, rows) {
                Ok(graph) => drop(side.graphs.insert(rows, graph)),
                // Not everything can be captured. What can be launched is, one kernel after the other.
                Err(failure)
                    if matches!(failure.status, BLAZE_STATUS_BACKEND_FAILED | BLAZE_STATUS_OUT_OF_MEMORY) =>
                {
                    model.warn_of_graph(call, rows, &failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(side)
    }

    /// Sees to it that there is a plan for so many rows.
    fn plan(&self, side: &mut Side, model: &Model, rows: u32) -> Result<()> {
        if side.plans.contains_key(&rows) {
            return Ok(());
        }
        let plan = Plan::new(&model.manifest, &self.sizes(model, rows)?, &side.addresses)?;
        if !plan.amounts.fits(&side.room) {
            let text =
                format!("{rows} rows take more memory than the {} that there is room for", self.max_rows);
            return Err(Failure::shape(text));
        }
        side.plans.insert(rows, plan);
        Ok(())
    }

    fn graph(
        &self,
        side: &Side,
        entered: &Entered<'_>,
        part: &Part,
        model: &Model,
        rows: u32,
    ) -> Result<Graph> {
        let Some(plan) = side.plans.get(&rows) else { return Err(Failure::failed("no plan")) };
        let driver = entered.driver();
        let stream = part.device.take_stream(entered)?;
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is of this generation, and this thread's. What is enqueued is only recorded.
        let captured = entered
            .check(unsafe { driver.capture_begin(stream.handle, driver::CAPTURE_THREAD_LOCAL) })
            .and_then(|()| {
                let enqueued =
                    enqueue(entered, part, model, plan, &side.addresses, &self.host, stream.handle);
                // SAFETY: as above.
                let ended = entered.check(unsafe { driver.capture_end(stream.handle, &raw mut graph) });
                enqueued.and(ended)
            })
            // SAFETY: the graph was made just now.
            .and_then(|()| entered.check(unsafe { driver.graph_instantiate(&raw mut exec, graph, 0) }));
        if !graph.is_null() && part.device.has(part.generation) {
            // SAFETY: as above; what was instantiated does not need it.
            let destroyed = unsafe { driver.graph_destroy(graph) };
            if let Err(error) = destroyed {
                entered.failure(error);
            }
        }
        match captured {
            Ok(()) => {
                part.device.give_stream(stream);
                let device = Arc::clone(&part.device);
                Ok(Graph { device, generation: part.generation, exec, hosts: self.host.clone() })
            }
            Err(failure) => {
                // It may still be recording.
                if part.device.has(part.generation) {
                    stream.destroy(driver);
                }
                Err(failure)
            }
        }
    }

    /// Runs a batch.
    ///
    /// # Safety
    /// The run is as `blaze_backend_run` says, until this returns.
    pub unsafe fn run(&self, model: &Model, run: &blaze_backend_run, call: Call) -> Result<()> {
        if call.is_cancelled() {
            return Err(Failure::cancelled());
        }
        // SAFETY: promised by the caller.
        let (inputs, outputs) = unsafe {
            let stride = run.tensor_stride;
            (tensors(run.inputs, run.inputs_count, stride), tensors(run.outputs, run.outputs_count, stride))
        };
        let Chosen { index, part } = &model.choose(None)?;
        let mut sides = lock(&self.sides);
        let Some(side) = sides.get_mut(*index) else { return Err(Failure::failed("no such part")) };
        if side.as_ref().is_none_or(|side| side.generation != part.generation) {
            part.device.enter(Some(part.generation))?; // why there is none
            *side = Some(self.side(model, part, call)?);
        }
        let Some(side) = side else { return Err(Failure::failed("no side")) };
        self.plan(side, model, run.rows)?;
        let Some(plan) = side.plans.get(&run.rows) else { return Err(Failure::failed("no plan")) };
        let mut hosts = Hosts::with_capacity(inputs.len() + outputs.len());
        hosts.extend(inputs.iter().map(|tensor| tensor.data as usize));
        for (tensor, expected) in inputs.iter().zip(&plan.amounts.inputs) {
            check_host(tensor, *expected)?;
        }
        let mut shapes: Option<Sizes> = None;
        for (index, (tensor, expected)) in outputs.iter().zip(&plan.amounts.outputs).enumerate() {
            if tensor.data.is_null() {
                let sizes = match &mut shapes {
                    Some(sizes) => sizes,
                    none => none.insert(self.sizes(model, run.rows)?),
                };
                let shape = model.manifest.outputs[index].shape(sizes).map_err(Failure::shape)?;
                hosts.push(call.output(index, &shape, BLAZE_MEMORY_HOST, 0)? as usize);
            } else {
                check_host(tensor, *expected)?;
                hosts.push(tensor.data as usize);
            }
        }
        let entered = part.device.enter(Some(part.generation))?;
        let mut stream = part.device.take_stream(&entered)?;
        let worked = stream.work(&entered, |handle| {
            match side.graphs.get(&run.rows).filter(|graph| graph.hosts == hosts) {
                // SAFETY: the graph is of this generation; its memory is the batch's, of which this run is the only one.
                Some(graph) => entered.check(unsafe { entered.driver().graph_launch(graph.exec, handle) }),
                None => enqueue(&entered, part, model, plan, &side.addresses, &hosts, handle),
            }
        });
        part.device.give_stream(stream);
        worked
    }
}

/// Puts a run onto a stream: copies to the device, kernels, copies back.
fn enqueue(
    entered: &Entered<'_>,
    part: &Part,
    model: &Model,
    plan: &Plan,
    addresses: &Addresses,
    hosts: &Hosts,
    stream: StreamHandle,
) -> Result<()> {
    let (inputs, outputs) = hosts.split_at(plan.amounts.inputs.len().min(hosts.len()));
    copy_in(entered, &plan.amounts.inputs, &addresses.inputs, inputs, stream)?;
    launch(entered, part, model, plan, stream)?;
    copy_out(entered, &plan.amounts.outputs, &addresses.outputs, outputs, stream)
}

/// Host addresses of 0 are those of tensors that are on the device already.
fn copy_in(
    entered: &Entered<'_>,
    bytes: &[u64],
    to: &[Address],
    from: &[usize],
    stream: StreamHandle,
) -> Result<()> {
    for ((&bytes, &to), &from) in bytes.iter().zip(to).zip(from) {
        if bytes > 0 && from != 0 {
            // SAFETY: the host has as much there until the work has ended, the device until the side is dropped.
            entered.check(unsafe {
                entered.driver().copy_to_device(to, from as *const c_void, bytes as usize, stream)
            })?;
        }
    }
    Ok(())
}

fn copy_out(
    entered: &Entered<'_>,
    bytes: &[u64],
    from: &[Address],
    to: &[usize],
    stream: StreamHandle,
) -> Result<()> {
    for ((&bytes, &from), &to) in bytes.iter().zip(from).zip(to) {
        if bytes > 0 && to != 0 {
            // SAFETY: as in `copy_in`.
            entered.check(unsafe {
                entered.driver().copy_to_host(to as *mut c_void, from, bytes as usize, stream)
            })?;
        }
    }
    Ok(())
}

fn launch(
    entered: &Entered<'_>,
    part: &Part,
    model: &Model,
    plan: &Plan,
    stream: StreamHandle,
) -> Result<()> {
    for launch in &plan.launches {
        let (Some(callable), Some(kernel)) =
            (part.functions.get(launch.kernel), model.manifest.kernels.get(launch.kernel))
        else {
            return Err(Failure::failed("no such kernel"));
        };
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) =
            (launch.geometry.grid, launch.geometry.block);
        let shared = launch.geometry.shared_bytes;
        callable.allow(entered, kernel, block_x * block_y * block_z, shared)?;
        let driver = entered.driver();
        // SAFETY: the function is of this generation; there are as many parameters as the manifest says, which was held
        // against the function's, or more than it can have where the driver cannot tell, and they are copied by the call.
        let with = |parameters: *mut *mut c_void| unsafe {
            driver.launch(
                callable.function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                shared,
                stream,
                parameters,
                std::ptr::null_mut(),
            )
        };
        let launched = match driver.knows_parameters() {
            true => with(launch.parameters.as_ptr().cast_mut()),
            false => plan::with_enough(&launch.parameters, with),
        };
        launched.map_err(|error| {
            let mut failure = entered.failure(error);
            failure.text = format!("{} {:?}: {}", kernel.path, kernel.name, failure.text);
            failure
        })?;
    }
    Ok(())
}

fn check_host(tensor: &blaze_tensor, bytes: u64) -> Result<()> {
    let is_host = matches!(tensor.memory, BLAZE_MEMORY_HOST | BLAZE_MEMORY_PINNED);
    match is_host && tensor.size_bytes as u64 >= bytes && (!tensor.data.is_null() || bytes == 0) {
        true => Ok(()),
        false => {
            let (there, memory) = (tensor.size_bytes, tensor.memory);
            Err(Failure::shape(format!(
                "a tensor of the batch has {there} bytes in memory {memory}, and must have {bytes}"
            )))
        }
    }
}

/// Runs a request with tensors of its own. Those in a device's memory are used where they are.
///
/// # Safety
/// The run is as `blaze_backend_run` says, until this returns.
pub unsafe fn run_alone(model: &Model, run: &blaze_backend_run, call: Call) -> Result<()> {
    if call.is_cancelled() {
        return Err(Failure::cancelled());
    }
    // SAFETY: promised by the caller.
    let (inputs, outputs) = unsafe {
        let stride = run.tensor_stride;
        (tensors(run.inputs, run.inputs_count, stride), tensors(run.outputs, run.outputs_count, stride))
    };
    // SAFETY: as above.
    let shapes: Vec<&[i64]> = inputs.iter().map(|tensor| unsafe { shape_of(tensor) }).collect();
    let sizes = model.manifest.sizes(&shapes).map_err(Failure::shape)?;
    let amounts = Amounts::of(&model.manifest, &sizes)?;
    let is_there = |tensor: &blaze_tensor| tensor.memory == BLAZE_MEMORY_CUDA;
    let mut devices =
        inputs.iter().chain(&outputs).filter(|tensor| is_there(tensor)).map(|tensor| tensor.device);
    let wanted = devices.next();
    if let Some(other) = devices.find(|&device| Some(device) != wanted) {
        let text = format!("tensors are in memory of devices {} and {other}", wanted.unwrap_or(-1));
        return Err(Failure::new(BLAZE_STATUS_UNSUPPORTED, text));
    }
    let Chosen { part, .. } = &model.choose(wanted)?;
    let device = &part.device;
    // What is on the device already needs no room; and what is on the host is where?
    let mut room = amounts.clone();
    for (tensor, bytes) in inputs.iter().zip(&mut room.inputs).chain(outputs.iter().zip(&mut room.outputs)) {
        if is_there(tensor) {
            *bytes = 0;
        }
    }
    let (places, bytes) = room.places()?;
    let memory = match bytes {
        0 => None,
        bytes => Some(call.take_buffers(device, bytes)?),
    };
    let mut addresses =
        places.within(memory.as_ref().map_or(0, |block| block.address), part.weights_address());
    let (mut from, mut to) = (vec![0usize; inputs.len()], vec![0usize; outputs.len()]);
    for (index, tensor) in inputs.iter().enumerate() {
        match is_there(tensor) {
            true => addresses.inputs[index] = tensor.data as Address,
            false => {
                check_host(tensor, amounts.inputs[index])?;
                from[index] = tensor.data as usize;
            }
        }
    }
    for (index, tensor) in outputs.iter().enumerate() {
        let data = match tensor.data.is_null() {
            true => {
                let shape = model.manifest.outputs[index].shape(&sizes).map_err(Failure::shape)?;
                let place = if is_there(tensor) { tensor.device } else { 0 };
                call.output(index, &shape, tensor.memory, place)?
            }
            false => tensor.data,
        };
        match is_there(tensor) {
            true => addresses.outputs[index] = data as Address,
            false if !tensor.data.is_null() => {
                check_host(tensor, amounts.outputs[index])?;
                to[index] = data as usize;
            }
            false => to[index] = data as usize,
        }
    }
    let entered = device.enter(Some(part.generation))?;
    let theirs = |kind: &str,
                  tensors: &[&blaze_tensor],
                  names: &[crate::manifest::Tensor],
                  at: &[Address],
                  bytes: &[u64]| {
        for ((tensor, name), (&address, &bytes)) in tensors.iter().zip(names).zip(at.iter().zip(bytes)) {
            if is_there(tensor) && bytes > 0 {
                let wrong = |why: String| Failure::shape(format!("{kind} {:?}: {why}", name.name));
                if device.is_stale(address) {
                    return Err(Failure::lost(format!(
                        "{kind} {:?} was on device {}, which was lost",
                        name.name, device.ordinal
                    )));
                }
                if !tensor.data.is_null() && (tensor.size_bytes as u64) < bytes {
                    return Err(wrong(format!("{} bytes instead of {bytes}", tensor.size_bytes)));
                }
                if let Some(why) = device.wrong_with(&entered, address, bytes)? {
                    return Err(wrong(why));
                }
            }
        }
        Ok(())
    };
    theirs("input", &inputs, &model.manifest.inputs, &addresses.inputs, &amounts.inputs)?;
    theirs("output", &outputs, &model.manifest.outputs, &addresses.outputs, &amounts.outputs)?;
    let plan = Plan::new(&model.manifest, &sizes, &addresses)?;
    let mut stream = device.take_stream(&entered)?;
    let worked = stream.work(&entered, |handle| {
        copy_in(&entered, &plan.amounts.inputs, &addresses.inputs, &from, handle)?;
        launch(&entered, part, model, &plan, handle)?;
        copy_out(&entered, &plan.amounts.outputs, &addresses.outputs, &to, handle)
    });
    device.give_stream(stream);
    worked
}
