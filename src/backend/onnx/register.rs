//! Registers execution providers with ONNX Runtime, and tells one that is not there from one whose options are wrong.
#![allow(unsafe_code)]

use super::library;
use super::provider::{Provider, Setting, short_name};
use super::value::check;
use crate::error::{Error, Status};
use ort::AsPointer;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::sys;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;

/// Why a provider was not registered.
pub enum Refusal {
    /// It is not there: not in the library, or a library of its own is missing, or a driver, or the device.
    Unavailable(String),
    /// It is there, and does not take its options.
    Options(Error),
}

/// Adds a provider to those of a session that is about to be made.
pub fn register(builder: &mut SessionBuilder, provider: &Provider) -> Result<(), Refusal> {
    // ONNX Runtime says no more of a provider that it does not have than that its name is wrong.
    let available = available();
    if !available.is_empty() && !available.iter().any(|name| name == provider.runtime_name) {
        let names: Vec<String> = available.iter().map(|name| short_name(name)).collect();
        let version = library::loaded().map(|info| info.version.as_str()).unwrap_or_default();
        let names = names.join(", ");
        return Err(Refusal::Unavailable(format!("this ONNX Runtime ({version}) has none; it has {names}")));
    }
    library::said();
    // SAFETY: the builder lives, and nobody else has it.
    unsafe { append(builder.ptr_mut(), provider, &provider.options.iter().collect::<Vec<_>>()) }
        .map_err(|error| explain(provider, &error))
}

/// The providers that the library was built with, by ONNX Runtime's names. That says nothing of drivers, nor of devices.
fn available() -> Vec<String> {
    let (mut names, mut count) = (ptr::null_mut(), 0);
    // SAFETY: both are written on success, and released below.
    if check(unsafe { (ort::api().GetAvailableProviders)(&mut names, &mut count) }).is_err() {
        return Vec::new();
    }
    let name = |at: usize| {
        // SAFETY: there are so many strings, which live until they are released.
        unsafe { CStr::from_ptr(*names.add(at)) }.to_string_lossy().into_owned()
    };
    let found = (0..usize::try_from(count).unwrap_or(0)).map(name).collect();
    // SAFETY: as they were received, and not used any more. It cannot fail.
    let _ = check(unsafe { (ort::api().ReleaseAvailableProviders)(names, count) });
    found
}

/// # Safety
/// The options are a live session's to be.
unsafe fn append(
    to: *mut sys::OrtSessionOptions,
    provider: &Provider,
    settings: &[&Setting],
) -> Result<(), ort::Error> {
    let api = ort::api();
    let keys: Vec<*const c_char> = settings.iter().map(|setting| setting.key.as_ptr()).collect();
    let values: Vec<*const c_char> = settings.iter().map(|setting| setting.value.as_ptr()).collect();
    // SAFETY: the arrays have as many strings as said, which ONNX Runtime copies; each kind of options is made, filled, used
    // and released by its own functions.
    unsafe {
        match provider.name {
            "cuda" => {
                let mut options = ptr::null_mut();
                check((api.CreateCUDAProviderOptions)(&mut options))?;
                let done = check((api.UpdateCUDAProviderOptions)(
                    options,
                    keys.as_ptr(),
                    values.as_ptr(),
                    keys.len(),
                ))
                .and_then(|()| check((api.SessionOptionsAppendExecutionProvider_CUDA_V2)(to, options)));
                (api.ReleaseCUDAProviderOptions)(options);
                done
            }
            "tensorrt" => {
                let mut options = ptr::null_mut();
                check((api.CreateTensorRTProviderOptions)(&mut options))?;
                let done = check((api.UpdateTensorRTProviderOptions)(
                    options,
                    keys.as_ptr(),
                    values.as_ptr(),
                    keys.len(),
                ))
                .and_then(|()| check((api.SessionOptionsAppendExecutionProvider_TensorRT_V2)(to, options)));
                (api.ReleaseTensorRTProviderOptions)(options);
                done
            }
            _ => {
                let name = CString::new(provider.runtime_name).unwrap_or_default();
                check((api.SessionOptionsAppendExecutionProvider)(
                    to,
                    name.as_ptr(),
                    keys.as_ptr(),
                    values.as_ptr(),
                    keys.len(),
                ))
            }
        }
    }
}

/// Whether a provider takes these settings.
fn try_settings(provider: &Provider, settings: &[&Setting]) -> Result<(), ort::Error> {
    let mut options = ptr::null_mut();
    // SAFETY: written on success, used by the call only, and released once.
    unsafe {
        check((ort::api().CreateSessionOptions)(&mut options))?;
        let done = append(options, provider, settings);
        (ort::api().ReleaseSessionOptions)(options);
        done
    }
}

/// Finds out why a provider is not registered: with its device only, with all options but one, and with one only.
fn explain(provider: &Provider, error: &ort::Error) -> Refusal {
    let (device, others): (Vec<&Setting>, Vec<&Setting>) =
        provider.options.iter().partition(|setting| setting.is_device);
    let text = in_full(error);
    if others.is_empty() {
        return unavailable(&device, &text);
    }
    if let Err(error) = try_settings(provider, &device) {
        return unavailable(&device, &in_full(&error));
    }
    let is_cause = |&setting: &&Setting| {
        let rest: Vec<&Setting> = provider.options.iter().filter(|other| *other != setting).collect();
        try_settings(provider, &rest).is_ok()
    };
    let is_wrong = |&setting: &&Setting| {
        let alone: Vec<&Setting> = device.iter().copied().chain([setting]).collect();
        try_settings(provider, &alone).is_err()
    };
    let place = format!("providers[{}].options", provider.index);
    let found = others.iter().copied().find(is_cause).or_else(|| others.iter().copied().find(is_wrong));
    let text = match found {
        Some(setting) => format!(
            "{place}.{}: {} does not take {:?}: {}",
            setting.key(),
            provider.name,
            setting.value(),
            text
        ),
        None => format!("{place}: {} does not take them together: {text}", provider.name),
    };
    Refusal::Options(Error::new(Status::InvalidConfig, text))
}

/// What ONNX Runtime says about a provider, to whom it asks and in its log.
fn in_full(error: &ort::Error) -> String {
    match library::said() {
        Some(said) if !error.message().contains(&said) => {
            format!("{}: {}", plain(error.message()), plain(&said))
        }
        _ => plain(error.message()).to_owned(),
    }
}

/// A message of ONNX Runtime's without where it is from in its source.
pub fn plain(text: &str) -> &str {
    let text = text.rsplit_once("[ERROR] ").map_or(text, |(_, rest)| rest);
    // "… [ONNXRuntimeError] : 1 : FAIL : what it is about"
    let text = text
        .rsplit_once("[ONNXRuntimeError] : ")
        .map_or(text, |(_, rest)| rest.splitn(3, " : ").last().unwrap_or(rest));
    text.trim()
}

fn unavailable(device: &[&Setting], text: &str) -> Refusal {
    // The first device is nobody's choice.
    let chosen = device.iter().filter(|setting| setting.value() != "0");
    let named: Vec<String> =
        chosen.map(|setting| format!("{} {:?}", setting.key(), setting.value())).collect();
    Refusal::Unavailable(match named.as_slice() {
        [] => text.to_owned(),
        _ => format!("{}: {text}", named.join(", ")),
    })
}

/// How many of the model's operators each provider has, by its short name; `None` if ONNX Runtime does not say. A provider
/// that was registered may have none.
pub fn operators(session: &Session) -> Option<BTreeMap<String, u64>> {
    let api = ort::api();
    let (mut graphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session lives, and owns the array that is returned.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut graphs, &mut count) }).ok()?;
    if graphs.is_null() || count == 0 {
        return None;
    }
    let mut operators = BTreeMap::new();
    for index in 0..count {
        let (mut name, mut nodes, mut nodes_count) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `graphs` has `count` entries; the name is a string of the session's, as are the nodes, which are not looked
        // at.
        let name = unsafe {
            let graph = *graphs.add(index);
            check((api.EpAssignedSubgraph_GetEpName)(graph, &mut name)).ok()?;
            check((api.EpAssignedSubgraph_GetNodes)(graph, &mut nodes, &mut nodes_count)).ok()?;
            CStr::from_ptr(name)
        };
        *operators.entry(short_name(&name.to_string_lossy())).or_default() += nodes_count as u64;
    }
    Some(operators)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn messages_lose_where_they_are_from() {
        for (text, want) in [
            (
                "a.cc:141 f(int) [ERROR] [OpenVINO] Device GPU is not available\n",
                "[OpenVINO] Device GPU is not available",
            ),
            ("b.cc:2 g() [ONNXRuntimeError] : 1 : FAIL : no such file : x.so", "no such file : x.so"),
            ("[ONNXRuntimeError] : 1", "1"),
            ("Unknown provider option: \"x\"", "Unknown provider option: \"x\""),
            ("", ""),
        ] {
            assert_eq!(plain(text), want);
        }
    }
}
