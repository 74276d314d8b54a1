//! Bindings, with the host's own memory in the place of a device's: to ONNX Runtime both are memory by a name.

use super::*;
use crate::backend::Room;
use crate::backend::onnx::library;
use crate::backend::onnx::memory::Account;
use crate::backend::onnx::session::signature_of;
use crate::backend::onnx::value::host_memory;
use crate::memory::{HostSpace, Ledger, Pool};
use crate::tensor::{DType, element_count};
use ort::session::builder::SessionBuilder;
use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicBool;

/// Without an ONNX Runtime there is none: `make test` says where it is.
fn shared(model: &str) -> Option<Shared> {
    std::env::var_os("ORT_DYLIB_PATH")?;
    let environment = library::environment(None).unwrap();
    let path = format!("{}/tests/models/{model}.onnx", env!("CARGO_MANIFEST_DIR"));
    let session = SessionBuilder::new(environment).unwrap().commit_from_file(path).unwrap();
    let pool = Pool::new(Ledger::new(None), Box::new(HostSpace));
    Some(Shared {
        signature: Arc::new(signature_of(&session).unwrap()),
        session: ManuallyDrop::new(session),
        memory: host_memory().unwrap(),
        outputs_vary: AtomicBool::new(false),
        account: Account::new(&pool, &Room::default()),
    })
}

fn device() -> OnDevice {
    OnDevice::of(AllocationDevice::CPU, 0).unwrap()
}

/// What a "device" has at some address.
struct Far(Vec<f32>);

impl Far {
    fn range(&self) -> DeviceRange {
        DeviceRange { device: 0, address: self.0.as_ptr().expose_provenance(), size: 4 * self.0.len() }
    }

    fn tensor(&self, shape: &[i64]) -> Option<Tensor> {
        let data = Data::Device(DeviceBytes::lent(self.range()));
        Some(Tensor { dtype: DType::F32, shape: Shape::from_slice(shape), data })
    }
}

fn read(tensor: &Tensor) -> Vec<f32> {
    let Data::Device(bytes) = &tensor.data else {
        let floats = tensor.bytes().chunks_exact(4);
        return floats.map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap())).collect();
    };
    let range = bytes.range();
    assert_eq!(range.size, 4 * element_count(&tensor.shape).unwrap());
    // SAFETY: it is memory of the host's in truth, of this size.
    unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(range.address), range.size / 4) }
        .to_vec()
}

fn run_it(shared: &Shared, inputs: &[Option<Tensor>], places: &[OutputPlace]) -> Result<Vec<Tensor>> {
    run(shared, &device(), &RunOptions::new().unwrap(), inputs, places, &Interrupt::new())
}

/// 2x + 1, by the model.
#[test]
fn outputs_go_where_they_are_wanted() {
    let Some(shared) = shared("tiny") else { return };
    let x = Far(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let want = run_it(&shared, &[x.tensor(&[2, 4])], &[OutputPlace::Host]).unwrap();
    assert!(!matches!(want[0].data, Data::Device(_)));
    let want = read(&want[0]);
    assert_eq!(want.len() % 2, 0);

    let there = run_it(&shared, &[x.tensor(&[2, 4])], &[OutputPlace::Device(0)]).unwrap();
    assert!(matches!(&there[0].data, Data::Device(_)));
    assert_eq!(read(&there[0]), want);

    let buffer = Far(vec![-1.0; want.len() + 3]);
    let written = run_it(&shared, &[x.tensor(&[2, 4])], &[OutputPlace::Buffer(buffer.range())]).unwrap();
    let Data::Device(bytes) = &written[0].data else { panic!("it is in host memory") };
    assert_eq!(bytes.range().address, buffer.range().address);
    assert_eq!(read(&written[0]), want);
    assert_eq!(buffer.0[want.len()..], [-1.0; 3], "the rest is left alone");

    let small = Far(vec![-1.0; want.len() - 1]);
    let error = run_it(&shared, &[x.tensor(&[2, 4])], &[OutputPlace::Buffer(small.range())]).err().unwrap();
    assert_eq!(error.status, Status::BufferTooSmall);
    assert!(error.message.contains(&format!("has {} bytes", 4 * want.len())), "{error}");
    assert_eq!(small.0, vec![-1.0; want.len() - 1]);
}

#[test]
fn an_output_on_the_device_outlives_its_session() {
    let Some(shared) = shared("tiny") else { return };
    let x = Far(vec![1.0; 4]);
    let want = read(&run_it(&shared, &[x.tensor(&[1, 4])], &[]).unwrap()[0]);
    let kept = run_it(&shared, &[x.tensor(&[1, 4])], &[OutputPlace::Device(0)]).unwrap();
    drop(shared);
    assert_eq!(read(&kept[0]), want);
}

#[test]
fn what_has_no_known_shape_goes_to_no_buffer() {
    let Some(shared) = shared("nonzero") else { return };
    let spec = &shared.signature.inputs[0];
    let shape: Vec<i64> =
        spec.dims.iter().map(|dim| if let Dim::Fixed(size) = dim { *size } else { 2 }).collect();
    let x = Far(vec![1.0; element_count(&shape).unwrap()]);
    let buffer = Far(vec![0.0; 64]);
    let error = run_it(&shared, &[x.tensor(&shape)], &[OutputPlace::Buffer(buffer.range())]).err().unwrap();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("its shape has"), "{error}");
    // Where ONNX Runtime takes the memory, the shape may be anything.
    let found = run_it(&shared, &[x.tensor(&shape)], &[OutputPlace::Device(0)]).unwrap();
    let want = run_it(&shared, &[x.tensor(&shape)], &[OutputPlace::Host]).unwrap();
    assert_eq!(found[0].shape, want[0].shape);
}

#[test]
fn an_input_that_is_passed_on_is_never_kept() {
    let Some(shared) = shared("passed_on") else { return };
    let shapes: Vec<Vec<i64>> = shared
        .signature
        .inputs
        .iter()
        .map(|spec| spec.dims.iter().map(|dim| if let Dim::Fixed(size) = dim { *size } else { 2 }).collect())
        .collect();
    let far: Vec<Far> = shapes.iter().map(|shape| Far(vec![3.0; element_count(shape).unwrap()])).collect();
    let inputs = || far.iter().zip(&shapes).map(|(far, shape)| far.tensor(shape)).collect::<Vec<_>>();
    let places = vec![OutputPlace::Device(0); shared.signature.outputs.len()];
    match run_it(&shared, &inputs(), &places) {
        // ONNX Runtime may copy it.
        Ok(outputs) => {
            for output in &outputs {
                let Data::Device(bytes) = &output.data else { panic!("it is in host memory") };
                assert!(far.iter().all(|far| far.range().address != bytes.range().address));
            }
        }
        Err(error) => assert_eq!(error.status, Status::Unsupported, "{error}"),
    }
}

#[test]
fn a_run_that_nobody_wants_is_not_begun() {
    let Some(shared) = shared("tiny") else { return };
    let x = Far(vec![1.0; 4]);
    let interrupt = Interrupt::new();
    interrupt.raise();
    let options = RunOptions::new().unwrap();
    let error = run(&shared, &device(), &options, &[x.tensor(&[1, 4])], &[], &interrupt).err().unwrap();
    assert_eq!(error.status, Status::Cancelled);
}
