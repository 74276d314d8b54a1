//! Models of any size whose right answers are known: multi-layer perceptrons with weights from a seeded generator.

use crate::onnx::{self, Tensor, node};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// How far an answer may be from the right one: what 32-bit sums over some thousand terms may lose.
const TOLERANCE: f32 = 1e-4;

/// A model, as it can be made again from these.
#[derive(Clone, Debug)]
pub struct Mlp {
    pub sizes: Vec<usize>,
    pub seed: u64,
    /// Whether its weights are in a file of their own.
    pub external: bool,
}

/// A row, and what the model must answer to it.
pub struct Known {
    pub row: Vec<f32>,
    pub answer: Vec<f32>,
}

impl Known {
    pub fn is_right(&self, output: &[f32]) -> bool {
        output.len() == self.answer.len()
            && output.iter().zip(&self.answer).all(|(a, b)| (a - b).abs() < TOLERANCE)
    }

    /// Whether the two models' answers can be told apart.
    pub fn differs_from(&self, other: &Known) -> bool {
        self.answer.iter().zip(&other.answer).any(|(a, b)| (a - b).abs() > 4.0 * TOLERANCE)
    }
}

/// Pseudo-random numbers: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Evenly from -1 to 1.
    fn even(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Mlp {
    pub fn new(sizes: &[usize], seed: u64) -> Mlp {
        Mlp { sizes: sizes.into(), seed, external: false }
    }

    /// About 20 MB.
    pub fn of_20_mb(seed: u64, external: bool) -> Mlp {
        Mlp { sizes: vec![784, 2048, 1640, 10], seed, external }
    }

    pub fn weight_bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.size_bytes() as u64).sum()
    }

    fn layers(&self) -> usize {
        self.sizes.len() - 1
    }

    /// Matrix and bias of each layer.
    fn tensors(&self) -> Vec<Tensor> {
        let mut offset = 0;
        let mut tensors = Vec::new();
        for layer in 0..self.layers() {
            let (from, to) = (self.sizes[layer], self.sizes[layer + 1]);
            for (name, shape) in [("w", vec![from, to]), ("b", vec![to])] {
                let tensor = Tensor { name: format!("{name}{layer}"), shape, offset };
                offset += tensor.size_bytes() as u64;
                tensors.push(tensor);
            }
        }
        tensors
    }

    /// The values of a matrix, or of a bias, in the order of the file.
    fn values(&self, tensor: &Tensor) -> impl FnMut() -> f32 + use<> {
        let layer: u64 = tensor.name[1..].parse().expect("a layer's number");
        let is_bias = tensor.shape.len() == 1;
        let mut random = Random::new(self.seed << 16 | layer << 1 | u64::from(is_bias));
        // So that every layer's values are about as large as those of the one before.
        let scale = if is_bias { 0.3 } else { (6.0 / tensor.shape[0] as f32).sqrt() };
        move || random.even() * scale
    }

    /// What the model must answer to a row, computed here; takes no memory for the weights.
    pub fn known(&self, row: u64) -> Known {
        let mut random = Random::new(row ^ 0x5EED);
        let row: Vec<f32> = (0..self.sizes[0]).map(|_| random.even()).collect();
        let tensors = self.tensors();
        let mut values = row.clone();
        for layer in 0..self.layers() {
            let (matrix, bias) = (&tensors[2 * layer], &tensors[2 * layer + 1]);
            let (mut weight, mut first) = (self.values(matrix), self.values(bias));
            let mut sums: Vec<f64> = (0..matrix.shape[1]).map(|_| f64::from(first())).collect();
            for value in &values {
                sums.iter_mut().for_each(|sum| *sum += f64::from(*value) * f64::from(weight()));
            }
            let last = layer + 1 == self.layers();
            values = sums.iter().map(|&sum| if last { sum } else { sum.max(0.0) } as f32).collect();
        }
        let most = values.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f64> = values.iter().map(|value| f64::from(value - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        Known { row, answer: powers.iter().map(|power| (power / sum) as f32).collect() }
    }

    /// Writes the model to `path`; external weights go to a file beside it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let layers = self.layers();
        let mut nodes = Vec::new();
        for layer in 0..layers {
            let input = if layer == 0 { "x".to_owned() } else { format!("r{}", layer - 1) };
            let (weight, bias, sum) = (format!("w{layer}"), format!("b{layer}"), format!("g{layer}"));
            nodes.push(node("Gemm", &[&input, &weight, &bias], &sum));
            nodes.push(match layer + 1 == layers {
                true => node("Softmax", &[&sum], "y"),
                false => node("Relu", &[&sum], &format!("r{layer}")),
            });
        }
        let tensors = self.tensors();
        let write_values = |tensor: &Tensor, file: &mut dyn Write| -> io::Result<()> {
            let mut value = self.values(tensor);
            let mut bytes = Vec::with_capacity(tensor.size_bytes());
            (0..tensor.size_bytes() / 4).for_each(|_| bytes.extend_from_slice(&value().to_le_bytes()));
            file.write_all(&bytes)
        };
        let weights = path.with_extension("bin");
        let location = weights.file_name().and_then(|name| name.to_str()).filter(|_| self.external);
        if self.external {
            let mut file = BufWriter::new(fs::File::create(&weights)?);
            tensors.iter().try_for_each(|tensor| write_values(tensor, &mut file))?;
            file.flush()?;
        }
        let ends = (self.sizes[0], self.sizes[layers]);
        let mut file = BufWriter::new(fs::File::create(path)?);
        onnx::write(&mut file, &nodes, &tensors, ends, location, write_values)?;
        file.flush()
    }

    /// The model's file in the folder of models; made if it is not there.
    pub fn file(&self) -> PathBuf {
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        let kind = if self.external { "external" } else { "inline" };
        let path = folder().join(format!("{}-{}-{kind}.onnx", sizes.join("x"), self.seed));
        if !path.exists() {
            // Whole or not at all: `known` says what must be in it.
            let made = folder().join("making");
            let own = made.join(path.file_name().expect("it has a name"));
            let write = || -> io::Result<()> {
                fs::create_dir_all(&made)?;
                self.write(&own)?;
                if self.external {
                    fs::rename(own.with_extension("bin"), path.with_extension("bin"))?;
                }
                fs::rename(&own, &path)
            };
            write().unwrap_or_else(|error| crate::abi::fail(&format!("{}: {error}", path.display())));
        }
        path
    }
}

/// Where models are kept between runs.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/memory-models")
}
