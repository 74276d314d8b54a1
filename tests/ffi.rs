//! The C ABI called from Rust, with the mock backend only, so that Miri can run it: `make miri`.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use blaze::ffi::engine::{blaze_engine_create, blaze_engine_destroy, blaze_engine_shutdown, blaze_pump};
use blaze::ffi::event::{blaze_event, blaze_event_output, blaze_event_release};
use blaze::ffi::handles::{blaze_engine, blaze_queue};
use blaze::ffi::log::{blaze_log_configure, blaze_log_set_callback};
use blaze::ffi::model::{
    blaze_model_find, blaze_model_info, blaze_model_load, blaze_model_load_async, blaze_model_load_memory,
    blaze_model_unload,
};
use blaze::ffi::profile::{blaze_profile_report, blaze_profile_start, blaze_profile_stop};
use blaze::ffi::queue::{
    blaze_poll, blaze_queue_create, blaze_queue_destroy, blaze_queue_fd, blaze_queue_wake, blaze_wait,
};
use blaze::ffi::reports::{
    blaze_advice_json, blaze_health, blaze_health_json, blaze_metrics, blaze_metrics_text,
};
use blaze::ffi::request::{BLAZE_REQUEST_BORROW, blaze_cancel, blaze_infer, blaze_request, blaze_submit};
use blaze::ffi::route::{
    blaze_route_choice, blaze_route_create, blaze_route_destroy, blaze_route_info, blaze_route_target_add,
    blaze_route_target_drain, blaze_route_target_remove, blaze_route_update, blaze_strategy_register,
    blaze_tenant_set,
};
use blaze::ffi::status::{BLAZE_STATUS_NULL_POINTER, BLAZE_STATUS_OK};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use blaze::ffi::tuning::{blaze_model_configure, blaze_tune, blaze_tune_report};
use std::mem::zeroed;
use std::ptr::{null, null_mut};

const CONFIG: &std::ffi::CStr = cr#"{"models": [{"name": "m", "backend": "mock"}]}"#;

/// An engine with one mock model and a queue.
struct Host {
    engine: *mut blaze_engine,
    queue: *mut blaze_queue,
    model: u64,
}

impl Host {
    fn new() -> Host {
        let (mut engine, mut queue, mut model) = (null_mut(), null_mut(), 0);
        unsafe {
            assert_eq!(blaze_engine_create(CONFIG.as_ptr(), &mut engine, null_mut()), BLAZE_STATUS_OK);
            assert_eq!(blaze_queue_create(engine, 8, &mut queue, null_mut()), BLAZE_STATUS_OK);
            assert_eq!(blaze_model_find(engine, c"m".as_ptr(), &mut model), BLAZE_STATUS_OK);
        }
        Host { engine, queue, model }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        unsafe {
            assert_eq!(blaze_queue_destroy(self.queue), BLAZE_STATUS_OK);
            blaze_engine_destroy(self.engine);
        }
    }
}

fn request(model: u64, input: &blaze_tensor) -> blaze_request {
    let mut request: blaze_request = unsafe { zeroed() };
    request.struct_size = size_of::<blaze_request>() as u32;
    request.model = model;
    request.inputs = input;
    request.inputs_count = 1;
    request
}

fn tensor(shape: &[i64], data: &mut [f32]) -> blaze_tensor {
    let mut tensor: blaze_tensor = unsafe { zeroed() };
    tensor.struct_size = size_of::<blaze_tensor>() as u32;
    tensor.dtype = BLAZE_DTYPE_F32;
    tensor.shape = shape.as_ptr();
    tensor.rank = shape.len() as u32;
    tensor.data = data.as_mut_ptr().cast();
    tensor.size_bytes = size_of_val(data);
    tensor
}

#[test]
fn null_is_refused_by_every_export() {
    let no = BLAZE_STATUS_NULL_POINTER;
    unsafe {
        assert_eq!(blaze_engine_create(null(), null_mut(), null_mut()), no);
        assert_eq!(blaze_engine_shutdown(null_mut(), 0), no);
        blaze_engine_destroy(null_mut());
        assert_eq!(blaze_pump(null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_queue_create(null_mut(), 1, null_mut(), null_mut()), no);
        assert_eq!(blaze_queue_destroy(null_mut()), BLAZE_STATUS_OK);
        assert_eq!(blaze_queue_fd(null_mut(), null_mut()), no);
        assert_eq!(blaze_queue_wake(null_mut()), no);
        assert_eq!(blaze_poll(null_mut(), null_mut(), size_of::<blaze_event>(), 1), 0);
        assert_eq!(blaze_wait(null_mut(), null_mut(), size_of::<blaze_event>(), 1, 0), 0);
        assert_eq!(blaze_model_load(null_mut(), null(), null_mut(), null_mut()), no);
        assert_eq!(blaze_model_load_memory(null_mut(), null(), null(), 0, null_mut(), null_mut()), no);
        assert_eq!(blaze_model_load_async(null_mut(), null(), null_mut(), 0, null_mut(), null_mut()), no);
        assert_eq!(blaze_model_find(null_mut(), null(), null_mut()), no);
        assert_eq!(blaze_model_info(null_mut(), 1, null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_model_unload(null_mut(), 1, null_mut(), null_mut()), no);
        assert_eq!(blaze_submit(null_mut(), null(), null_mut(), null_mut(), null_mut()), no);
        assert_eq!(blaze_infer(null_mut(), null(), 0, null_mut(), null_mut()), no);
        assert_eq!(blaze_cancel(null_mut(), 1), no);
        assert_eq!(blaze_event_output(null(), 0, null_mut()), no);
        blaze_event_release(null_mut());
        assert_eq!(blaze_health(null_mut(), null_mut()), no);
        assert_eq!(blaze_health_json(null_mut(), null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_metrics(null_mut(), null_mut()), no);
        assert_eq!(blaze_metrics_text(null_mut(), 1, null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_advice_json(null_mut(), null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_route_create(null_mut(), null(), null_mut(), null_mut()), no);
        assert_eq!(blaze_route_update(null_mut(), 1, null(), null_mut()), no);
        assert_eq!(blaze_route_destroy(null_mut(), 1), no);
        assert_eq!(blaze_route_target_add(null_mut(), 1, null(), null_mut()), no);
        assert_eq!(blaze_route_target_remove(null_mut(), 1, null()), no);
        assert_eq!(blaze_route_target_drain(null_mut(), 1, null(), 1), no);
        assert_eq!(blaze_route_info(null_mut(), 1, null_mut(), 0, null_mut()), no);
        assert_eq!(blaze_tenant_set(null_mut(), null(), null_mut()), no);
        assert_eq!(blaze_strategy_register(null_mut(), null(), None, null_mut(), null_mut()), no);
        assert_eq!(blaze_log_configure(null_mut(), null(), null_mut()), no);
        assert_eq!(blaze_log_set_callback(null_mut(), None, null_mut(), null_mut()), no);
        assert_eq!(blaze_profile_start(null_mut(), null(), null_mut()), no);
        assert_eq!(blaze_profile_stop(null_mut(), null_mut()), no);
        assert_eq!(blaze_profile_report(null_mut(), 1, null_mut(), 0, null_mut(), null_mut()), no);
        assert_eq!(blaze_model_configure(null_mut(), 1, null(), null_mut()), no);
        assert_eq!(blaze_tune(null_mut(), null(), null_mut(), 0, null_mut(), null_mut()), no);
        assert_eq!(blaze_tune_report(null_mut(), null_mut(), 0, null_mut()), no);
    }
}

#[test]
fn a_request_goes_in_and_its_outputs_come_out() {
    let host = Host::new();
    let mut data = [1.0, 2.0, 3.0, 4.0];
    let shape = [1, 4];
    let input = tensor(&shape, &mut data);
    for flags in [0, BLAZE_REQUEST_BORROW] {
        let mut request = request(host.model, &input);
        request.flags = flags;
        let mut event: blaze_event = unsafe { zeroed() };
        let mut view = tensor(&[], &mut []);
        unsafe {
            assert_eq!(
                blaze_submit(host.engine, &request, host.queue, null_mut(), null_mut()),
                BLAZE_STATUS_OK
            );
            assert_eq!(blaze_wait(host.queue, &mut event, size_of::<blaze_event>(), 1, u64::MAX), 1);
            assert_eq!((event.status, event.outputs_count), (BLAZE_STATUS_OK, 1));
            assert_eq!(blaze_event_output(&event, 0, &mut view), BLAZE_STATUS_OK);
            assert_eq!(std::slice::from_raw_parts(view.data.cast::<f32>(), 4), [3.0, 5.0, 7.0, 9.0]);
            assert_eq!(std::slice::from_raw_parts(view.shape, 2), [1, 4]);
            let mut copy = event;
            blaze_event_release(&mut event);
            blaze_event_release(&mut event);
            blaze_event_release(&mut copy);
        }
    }
}

/// What a stepwise request says, and its copies, in any order with its end, and after the engine's.
#[test]
fn text_is_the_events_own_until_it_is_released() {
    const STEPS: &std::ffi::CStr =
        cr#"{"threads": 0, "models": [{"name": "m", "backend": "mock", "mock": {"steps": 3}}]}"#;
    let (mut engine, mut queue, mut model) = (null_mut(), null_mut(), 0);
    let text = |event: &blaze_event| unsafe {
        assert_eq!(*event.text.add(event.text_bytes), 0);
        String::from_utf8(std::slice::from_raw_parts(event.text.cast::<u8>(), event.text_bytes).to_vec())
            .unwrap()
    };
    unsafe {
        assert_eq!(blaze_engine_create(STEPS.as_ptr(), &mut engine, null_mut()), BLAZE_STATUS_OK);
        assert_eq!(blaze_queue_create(engine, 8, &mut queue, null_mut()), BLAZE_STATUS_OK);
        assert_eq!(blaze_model_find(engine, c"m".as_ptr(), &mut model), BLAZE_STATUS_OK);
        let (shape, mut data) = ([1, 4], [1.0, 2.0, 3.0, 4.0]);
        let input = tensor(&shape, &mut data);
        let mut request = request(model, &input);
        let mut event: blaze_event = zeroed();
        event.struct_size = size_of::<blaze_event>() as u32;
        let mut events = Vec::new();
        for flags in [0, BLAZE_REQUEST_BORROW] {
            request.flags = flags;
            assert_eq!(blaze_submit(engine, &request, queue, null_mut(), null_mut()), BLAZE_STATUS_OK);
            for step in 1..=3 {
                assert_eq!(blaze_pump(engine, 0, null_mut()), BLAZE_STATUS_OK);
                assert_eq!(blaze_poll(queue, &mut event, size_of::<blaze_event>(), 1), 1);
                assert_eq!((event.kind, text(&event)), (3, format!("step {step} ")));
                events.push(event);
            }
            assert_eq!(blaze_poll(queue, &mut event, size_of::<blaze_event>(), 1), 1);
            assert_eq!((event.kind, event.status), (1, BLAZE_STATUS_OK));
            events.push(event);
        }
        // One that is cancelled after its first step, and one that says all at once.
        let mut ticket = 0;
        assert_eq!(blaze_submit(engine, &request, queue, &mut ticket, null_mut()), BLAZE_STATUS_OK);
        assert_eq!(blaze_pump(engine, 0, null_mut()), BLAZE_STATUS_OK);
        assert_eq!(blaze_cancel(engine, ticket), BLAZE_STATUS_OK);
        assert_eq!(blaze_pump(engine, 0, null_mut()), BLAZE_STATUS_OK);
        while blaze_poll(queue, &mut event, size_of::<blaze_event>(), 1) == 1 {
            assert_eq!(event.ticket, ticket);
            blaze_event_release(&mut event);
        }
        event.struct_size = size_of::<blaze_event>() as u32;
        assert_eq!(blaze_infer(engine, &request, u64::MAX, &mut event, null_mut()), BLAZE_STATUS_OK);
        assert_eq!(text(&event), "step 1 step 2 step 3 ");
        events.push(event);
        for at in [3, 0, 5] {
            let mut copy = events[at];
            blaze_event_release(&mut events[at]);
            blaze_event_release(&mut copy);
        }
        blaze_engine_destroy(engine);
        assert_eq!(blaze_queue_destroy(queue), BLAZE_STATUS_OK);
        assert_eq!((text(&events[1]), text(&events[6])), ("step 2 ".into(), "step 3 ".into()));
        events.iter_mut().for_each(|event| blaze_event_release(event));
    }
}

#[test]
fn outputs_outlive_the_engine_and_go_to_the_callers_memory() {
    let (mut data, mut result) = ([0.5f32; 8], [0f32; 8]);
    let shape = [2, 4];
    let mut event: blaze_event = unsafe { zeroed() };
    event.struct_size = size_of::<blaze_event>() as u32;
    let host = Host::new();
    let (input, output) = (tensor(&shape, &mut data), tensor(&[], &mut result));
    let mut request = request(host.model, &input);
    unsafe {
        assert_eq!(blaze_infer(host.engine, &request, u64::MAX, &mut event, null_mut()), BLAZE_STATUS_OK);
        let mut second = event;
        (request.outputs, request.outputs_count) = (&output, 1);
        assert_eq!(blaze_infer(host.engine, &request, u64::MAX, &mut second, null_mut()), BLAZE_STATUS_OK);
        blaze_event_release(&mut second);
        assert_eq!(result, [2.0; 8]);
        drop(host);
        let mut view = tensor(&[], &mut []);
        assert_eq!(blaze_event_output(&event, 0, &mut view), BLAZE_STATUS_OK);
        assert_eq!(std::slice::from_raw_parts(view.data.cast::<f32>(), 8), [2.0; 8]);
        blaze_event_release(&mut event);
    }
}

#[test]
fn text_is_returned_by_the_two_call_pattern() {
    let host = Host::new();
    unsafe {
        let mut needed = 0;
        assert_eq!(blaze_model_info(host.engine, host.model, null_mut(), 0, &mut needed), BLAZE_STATUS_OK);
        let mut text = vec![1u8; needed];
        let buffer = text.as_mut_ptr().cast();
        assert_ne!(
            blaze_model_info(host.engine, host.model, buffer, needed - 1, null_mut()),
            BLAZE_STATUS_OK
        );
        assert_eq!(text, vec![1u8; needed]);
        assert_eq!(blaze_model_info(host.engine, host.model, buffer, needed, null_mut()), BLAZE_STATUS_OK);
        let text = std::ffi::CStr::from_bytes_with_nul(&text).unwrap().to_str().unwrap();
        assert!(text.contains(r#""provider":"mock""#), "{text}");
    }
}

unsafe extern "C" fn pick_last(user: *mut std::ffi::c_void, choice: *const blaze_route_choice) -> u32 {
    unsafe {
        let choice = &*choice;
        let targets = std::slice::from_raw_parts(choice.targets, choice.targets_count as usize);
        for target in targets {
            assert!(!std::ffi::CStr::from_ptr(target.model).to_bytes().is_empty());
        }
        (*user.cast::<std::sync::atomic::AtomicU32>()).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        choice.targets_count - 1
    }
}

#[test]
fn a_request_goes_by_a_route_and_on_to_a_second_target() {
    let host = Host::new();
    let calls = std::sync::atomic::AtomicU32::new(0);
    let user = std::ptr::from_ref(&calls).cast_mut().cast();
    let route_json = cr#"{"name": "r", "strategy": "last", "targets": [{"model": "m"}, {"model": "bad"}]}"#;
    let bad = cr#"{"name": "bad", "backend": "mock", "mock": {"faults": [{"kind": "error"}]}}"#;
    let mut data = [1.0, 2.0, 3.0, 4.0];
    let shape = [1, 4];
    let input = tensor(&shape, &mut data);
    let (mut model, mut route) = (0, 0);
    unsafe {
        assert_eq!(blaze_model_load(host.engine, bad.as_ptr(), &mut model, null_mut()), BLAZE_STATUS_OK);
        let name = c"last".as_ptr();
        let known = blaze_strategy_register(host.engine, name, Some(pick_last), user, null_mut());
        assert_eq!(known, BLAZE_STATUS_OK);
        let made = blaze_route_create(host.engine, route_json.as_ptr(), &mut route, null_mut());
        assert_eq!(made, BLAZE_STATUS_OK);
        for flags in [0, BLAZE_REQUEST_BORROW] {
            let mut request = request(route, &input);
            request.flags = flags;
            let mut event: blaze_event = zeroed();
            let sent = blaze_submit(host.engine, &request, host.queue, null_mut(), null_mut());
            assert_eq!(sent, BLAZE_STATUS_OK);
            assert_eq!(blaze_wait(host.queue, &mut event, size_of::<blaze_event>(), 1, u64::MAX), 1);
            assert_eq!((event.status, event.model), (BLAZE_STATUS_OK, host.model));
            let mut view = tensor(&[], &mut []);
            assert_eq!(blaze_event_output(&event, 0, &mut view), BLAZE_STATUS_OK);
            assert_eq!(std::slice::from_raw_parts(view.data.cast::<f32>(), 4), [3.0, 5.0, 7.0, 9.0]);
            blaze_event_release(&mut event);
        }
        assert!(calls.load(std::sync::atomic::Ordering::SeqCst) >= 2);
        assert_eq!(blaze_route_destroy(host.engine, route), BLAZE_STATUS_OK);
    }
}
