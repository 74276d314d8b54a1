//! A model's lines: which one a request belongs to, by the shapes of its inputs.

use super::admission::{InputData, InputTensor};
use super::line::{self, Key, Kind, Line};
use crate::config::AxisConfig;
use crate::error::{Error, Result, Status};
use crate::memory::Pool;
use crate::metrics::Traffic;
use crate::router::Limits;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock};
use crate::tensor::{DType, Dim, Shape, Signature, TensorSpec};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// So many lines are kept. Requests of shapes beyond them run alone, each in a batch made for it.
const MOST: usize = 64;

/// Inputs in the order of the signature; `None`: not given.
pub type Given<'a> = SmallVec<[Option<&'a InputTensor<'a>>; 4]>;

pub struct Lines {
    signature: Arc<Signature>,
    traffic: Arc<Traffic>,
    limits: Arc<Limits>,
    model_id: OnceLock<u64>,
    /// Whether rows of several requests are joined.
    joins: bool,
    /// Every request has tensors of its own.
    bare: bool,
    /// The most rows in one batch, as it is just now.
    max_rows: Arc<AtomicUsize>,
    /// For each input and axis the sizes to which it is padded, if it is.
    padding: Vec<Vec<Option<Arc<Axis>>>>,
    pads: bool,
    /// The line of all requests of one row or more that leave nothing out, if there is only one such line.
    usual: OnceLock<Arc<Line>>,
    lines: Box<[OnceLock<Arc<Line>>; MOST]>,
    count: AtomicUsize,
    making: Mutex<()>,
    /// For batches, if not the engine's.
    pool: Option<Arc<Pool>>,
}

struct Axis {
    name: String,
    buckets: Vec<i64>,
}

impl Axis {
    /// What a size is padded to.
    fn bucket(&self, size: i64) -> Option<i64> {
        self.buckets.iter().copied().find(|&bucket| bucket >= size)
    }
}

/// Where a request goes.
pub struct Found {
    pub line: Arc<Line>,
    /// The line was made for this request, and ends with it.
    pub passing: bool,
    /// The sizes of padded axes, if any is not full already.
    pub sizes: Option<SmallVec<[(usize, usize, i64); 4]>>,
}

impl Lines {
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub fn new(
        signature: &Arc<Signature>,
        traffic: Arc<Traffic>,
        limits: Arc<Limits>,
        joins: bool,
        max_rows: usize,
        axes: &BTreeMap<String, AxisConfig>,
    ) -> Self {
        let axes: Vec<Arc<Axis>> = axes
            .iter()
            .map(|(name, axis)| {
                let buckets = axis.buckets.iter().map(|&size| i64::from(size)).collect();
                Arc::new(Axis { name: name.clone(), buckets })
            })
            .collect();
        // The first axis has `buckets` of its own, whatever its name.
        let padded = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Symbolic(name) if axis > 0 => axes.iter().find(|axis| axis.name == *name).cloned(),
            _ => None,
        };
        let inputs = &signature.inputs;
        let padding: Vec<Vec<_>> =
            inputs.iter().map(|spec| spec.dims.iter().enumerate().map(padded).collect()).collect();
        Lines {
            traffic,
            limits,
            model_id: OnceLock::new(),
            joins,
            bare: false,
            max_rows: Arc::new(AtomicUsize::new(max_rows)),
            pads: padding.iter().flatten().any(Option::is_some),
            padding,
            usual: OnceLock::new(),
            lines: Box::new([const { OnceLock::new() }; MOST]),
            count: AtomicUsize::new(0),
            making: Mutex::new(()),
            pool: None,
            signature: Arc::clone(signature),
        }
    }

    /// Has every request come with tensors of its own, whatever their shapes.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Batches are made in this pool, rather than in the engine's.
    pub fn with_pool(self, pool: Option<Arc<Pool>>) -> Self {
        Lines { pool, ..self }
    }

    pub fn max_rows(&self) -> usize {
        self.max_rows.load(Ordering::Relaxed)
    }

    /// Batches have at most so many rows from now on. Those that are filling end as they are.
    pub fn set_max_rows(&self, max_rows: usize) {
        self.max_rows.store(max_rows, Ordering::Relaxed);
    }

    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    /// The model's handle, for its events.
    /// Its model's handle; 0 as long as there is none.
    pub fn model_id(&self) -> u64 {
        self.model_id.get().copied().unwrap_or(0)
    }

    pub fn set_model_id(&self, id: u64) {
        let _ = self.model_id.set(id);
        self.each(|line| line.set_model_id(id));
    }

    pub fn each<'a>(&'a self, mut look: impl FnMut(&'a Arc<Line>)) {
        let count = self.count.load(Ordering::Acquire);
        self.lines[..count].iter().filter_map(OnceLock::get).for_each(&mut look);
    }

    /// Shapes of inputs that requests have had, by the input's place; those of one line.
    pub fn some_shapes(&self) -> Vec<(usize, Shape)> {
        let mut shapes = Vec::new();
        self.each(|line| {
            if let (true, Some(layout)) = (shapes.is_empty(), line.layout()) {
                shapes.extend(layout.inputs.iter().map(|part| (part.index, part.shape.clone())));
            }
        });
        shapes
    }

    pub fn any(&self, look: impl Fn(&Line) -> bool) -> bool {
        let count = self.count.load(Ordering::Acquire);
        self.lines[..count].iter().filter_map(OnceLock::get).any(|line| look(line))
    }

    /// Makes the line of all usual requests, if there is only one.
    pub fn make_usual(&self) -> Result<Option<Arc<Line>>> {
        let required = || self.signature().inputs.iter().filter(|spec| !spec.optional);
        let fixed = required().all(|spec| {
            let skip = usize::from(self.joins);
            spec.dtype != DType::String && spec.dims.iter().skip(skip).all(|dim| matches!(dim, Dim::Fixed(_)))
        });
        if !fixed || self.bare || required().next().is_none() {
            return Ok(None);
        }
        let shape = |spec: &crate::tensor::TensorSpec| -> Option<Shape> {
            let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 1 };
            (!spec.optional).then(|| spec.dims.iter().map(size).collect())
        };
        let shapes: Vec<Option<Shape>> = self.signature().inputs.iter().map(shape).collect();
        let kind = if self.joins { Kind::Joined } else { Kind::Single };
        let line = self.find_or_make(kind, key(kind, shapes.iter().map(Option::as_deref)), &shapes)?.0;
        let _ = self.usual.set(Arc::clone(&line));
        Ok(Some(line))
    }

    /// The line of all usual requests, if there is only one.
    #[inline]
    pub fn usual(&self) -> Option<&Arc<Line>> {
        self.usual.get()
    }

    /// The line of plain requests with inputs of these shapes, in the signature's order; `None`: not given.
    pub fn line_of(&self, shapes: &[Option<Shape>]) -> Result<Arc<Line>> {
        let kind = if self.joins { Kind::Joined } else { Kind::Single };
        Ok(self.find_or_make(kind, key(kind, shapes.iter().map(Option::as_deref)), shapes)?.0)
    }

    /// The line of a request with these inputs, which were checked. `on_device`: it has to do with a device's memory.
    pub fn find(&self, given: &Given<'_>, rows: usize, on_device: bool) -> Result<Found> {
        let plain = |input: &Option<&InputTensor<'_>>| {
            input.is_none_or(|input| matches!(input.data, InputData::Copy(_) | InputData::Borrow(_)))
        };
        self.find_unusual(given, rows, !on_device && given.iter().all(plain))
    }

    fn find_unusual(&self, given: &Given<'_>, rows: usize, plain: bool) -> Result<Found> {
        let optional = || {
            given.iter().zip(&self.signature().inputs).any(|(input, spec)| input.is_some() && spec.optional)
        };
        // Of an optional input that is given nobody knows whether it belongs to the rows or to the batch.
        let joins = self.joins && plain && rows <= self.max_rows() && !optional();
        let borrows = given.iter().flatten().any(|input| matches!(input.data, InputData::Borrow(_)));
        let kind = match (joins, plain && !borrows && !self.bare) {
            (true, _) => Kind::Joined,
            (false, true) => Kind::Single,
            (false, false) => Kind::Bare,
        };
        if kind == Kind::Bare {
            let (line, passing) = self.find_or_make(kind, Key::new(), &[])?;
            return Ok(Found { line, passing, sizes: None });
        }
        let (shapes, sizes) = self.padded(given)?;
        let key = key(kind, shapes.iter().map(Option::as_deref));
        let (line, passing) = self.find_or_make(kind, key, &shapes)?;
        Ok(Found { line, passing, sizes })
    }

    /// The shapes with their padding, and the sizes that were padded.
    #[allow(clippy::type_complexity)]
    fn padded(
        &self,
        given: &Given<'_>,
    ) -> Result<(SmallVec<[Option<Shape>; 4]>, Option<SmallVec<[(usize, usize, i64); 4]>>)> {
        let mut sizes = SmallVec::new();
        let mut named: SmallVec<[(*const Axis, i64); 4]> = SmallVec::new();
        let mut shapes: SmallVec<[Option<Shape>; 4]> = SmallVec::new();
        let mut short = false;
        for (index, input) in given.iter().enumerate() {
            let Some(input) = input else {
                shapes.push(None);
                continue;
            };
            let mut shape = Shape::from_slice(input.shape);
            if self.pads {
                for (axis, padding) in self.padding[index].iter().enumerate() {
                    let Some(padding) = padding else { continue };
                    let size = input.shape[axis];
                    let name = &padding.name;
                    let error = |text: String| Error::new(Status::InvalidShape, text);
                    let bucket = padding.bucket(size).ok_or_else(|| {
                        let most = padding.buckets.last().copied().unwrap_or(0);
                        error(format!("axis {name:?} has size {size}, its largest bucket is {most}"))
                    })?;
                    match named.iter().find(|(other, _)| std::ptr::eq(*other, Arc::as_ptr(padding))) {
                        Some((_, other)) if *other != size => {
                            return Err(error(format!("axis {name:?} has size {other} and size {size}")));
                        }
                        Some(_) => (),
                        None => named.push((Arc::as_ptr(padding), size)),
                    }
                    short |= bucket != size;
                    sizes.push((index, axis, size));
                    shape[axis] = bucket;
                }
            }
            shapes.push(Some(shape));
        }
        Ok((shapes, short.then_some(sizes)))
    }

    fn find_or_make(&self, kind: Kind, key: Key, shapes: &[Option<Shape>]) -> Result<(Arc<Line>, bool)> {
        let known = || {
            let count = self.count.load(Ordering::Acquire);
            let lines = self.lines[..count].iter().filter_map(OnceLock::get);
            lines.into_iter().find(|line| line.kind() == kind && *line.key() == key).cloned()
        };
        if let Some(line) = known() {
            return Ok((line, false));
        }
        let _making = lock(&self.making);
        if let Some(line) = known() {
            return Ok((line, false));
        }
        let count = self.count.load(Ordering::Relaxed);
        // Nobody finds a line that is not kept: what goes there goes alone, and is handed to a lane at once.
        let kind = if kind == Kind::Joined && count == MOST { Kind::Single } else { kind };
        let layout = match kind {
            Kind::Bare | Kind::Jobs => None,
            _ => Some(line::layout(self.signature(), shapes, kind, self.max_rows())?),
        };
        let id = self.model_id.get().copied().unwrap_or(0);
        let line =
            Line::new(kind, key, layout, self.signature(), &self.traffic, Some(&self.limits), &self.max_rows);
        line.set_model_id(id);
        if let Some(pool) = &self.pool {
            line.use_pool(pool);
        }
        let Some(place) = self.lines.get(count) else { return Ok((line, true)) };
        let _ = place.set(Arc::clone(&line));
        self.count.store(count + 1, Ordering::Release);
        Ok((line, false))
    }

    /// The axes of an output that are padded: the sizes they have without, for a request with these sizes. An axis
    /// that is not as long as declared is left as it is.
    pub fn trimmed(&self, sizes: &[(usize, usize, i64)], index: usize, padded: &[i64]) -> Shape {
        let mut shape = Shape::from_slice(padded);
        let spec = &self.signature().outputs[index];
        for (axis, dim) in spec.dims.iter().enumerate().take(shape.len()).skip(1) {
            let Dim::Symbolic(name) = dim else { continue };
            let size = sizes.iter().find(|(input, axis, _)| {
                let padding = self.padding[*input][*axis].as_ref();
                padding.is_some_and(|padding| padding.name == *name)
            });
            if let Some((input, at, size)) = size
                && self.padding[*input][*at].as_ref().and_then(|padding| padding.bucket(*size))
                    == Some(shape[axis])
            {
                shape[axis] = *size;
            }
        }
        shape
    }
}

/// Whether these axes can be padded.
pub fn check_axes(signature: &Signature, axes: &BTreeMap<String, AxisConfig>) -> Result<()> {
    for name in axes.keys() {
        let error = |status, text: String| Err(Error::new(status, format!("batching.axes.{name}: {text}")));
        let known = |dim: &Dim| matches!(dim, Dim::Symbolic(other) if other == name);
        if !signature.inputs.iter().any(|spec| spec.dims.iter().skip(1).any(known)) {
            return error(
                Status::InvalidConfig,
                "no input has an axis of that name besides the first".into(),
            );
        }
        // Elements that share a byte, and strings, are not moved one by one.
        let specs = signature.inputs.iter().chain(&signature.outputs);
        let fixed = |spec: &&TensorSpec| spec.dtype.whole_bytes().is_none() && spec.dims.iter().any(known);
        if let Some(spec) = specs.into_iter().find(fixed) {
            let text = format!("{:?} is of {}, which cannot be padded", spec.name, spec.dtype.name());
            return error(Status::Unsupported, text);
        }
    }
    Ok(())
}

/// The key of these shapes.
fn key<'a>(kind: Kind, shapes: impl Iterator<Item = Option<&'a [i64]>>) -> Key {
    let mut key = Key::new();
    for shape in shapes {
        match shape {
            Some(shape) => key.extend_from_slice(&shape[usize::from(kind == Kind::Joined)..]),
            None => key.push(-2),
        }
        key.push(-1); // so that [2],[3] and [2,3],[] differ
    }
    key
}
