//! Every JSON text that the library reads: the first byte says which one the rest is.
#![no_main]

use blaze::config::{
    ChangeConfig, EngineConfig, LogConfig, ModelConfig, ProfileConfig, RouteConfig, TargetConfig,
    TenantConfig, TuneConfig,
};
use blaze::error::Status;
use blaze_fuzz::*;
use libfuzzer_sys::fuzz_target;
use std::ptr::null_mut;
use std::sync::OnceLock;

/// An engine with a model, for what can be applied without waiting and without touching files.
fn host() -> (*mut blaze_engine, u64) {
    static HOST: OnceLock<(usize, u64)> = OnceLock::new();
    let (engine, model) = *HOST.get_or_init(|| {
        let config = cr#"{"threads": 0, "models": [{"name": "m", "backend": "mock"}],
            "routes": [{"name": "r", "targets": [{"model": "m"}]}]}"#;
        let engine = engine(config).expect("an engine");
        let mut model = 0;
        // SAFETY: all pointers are valid.
        unsafe { assert_eq!(blaze_model_find(engine, c"m".as_ptr(), &mut model), BLAZE_STATUS_OK) };
        (engine as usize, model)
    });
    (engine as *mut blaze_engine, model)
}

/// A refusal is always the configuration's, and says why.
fn refused<T>(parsed: blaze::error::Result<T>) -> bool {
    parsed.is_err_and(|error| {
        assert_eq!(error.status, Status::InvalidConfig, "{error}");
        assert!(!error.message.is_empty());
        true
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, json)) = data.split_first() else { return };
    let Ok(json) = std::str::from_utf8(json) else { return };
    let text = c_string(json.as_bytes());
    let mut error = no_error();
    let (engine, model) = host();
    // SAFETY: all pointers are valid during the calls.
    unsafe {
        match kind % 9 {
            0 => drop(refused(EngineConfig::from_json(json))),
            1 => drop(refused(ModelConfig::from_json(json))),
            2 => drop(refused(LogConfig::from_json(json))),
            3 => drop(refused(ProfileConfig::from_json(json))),
            4 => drop(refused(TuneConfig::from_json(json))),
            5 => {
                if refused(RouteConfig::from_json(json)) {
                    return;
                }
                let mut route = 0;
                let status = blaze_route_create(engine, text.as_ptr(), &mut route, &mut error);
                check(status, &error);
                if status == BLAZE_STATUS_OK {
                    let info = blaze_fuzz::text(|to, room, needed| {
                        blaze_route_info(engine, route, to, room, needed)
                    });
                    serde_json::from_str::<serde_json::Value>(&info.expect("a text")).expect("JSON");
                    let again = blaze_route_update(engine, route, text.as_ptr(), &mut error);
                    assert_eq!(again, BLAZE_STATUS_OK);
                    assert_eq!(blaze_route_destroy(engine, route), BLAZE_STATUS_OK);
                }
            }
            6 => {
                let mut route = 0;
                assert_eq!(blaze_model_find(engine, c"r".as_ptr(), &mut route), BLAZE_STATUS_OK);
                let Ok(target) = TargetConfig::from_json(json) else { return };
                let status = blaze_route_target_add(engine, route, text.as_ptr(), &mut error);
                check(status, &error);
                if status == BLAZE_STATUS_OK {
                    let name = c_string(target.model.as_bytes());
                    assert_eq!(blaze_route_target_drain(engine, route, name.as_ptr(), 1), BLAZE_STATUS_OK);
                    assert_eq!(blaze_route_target_remove(engine, route, name.as_ptr()), BLAZE_STATUS_OK);
                }
            }
            7 => {
                if !refused(TenantConfig::from_json(json)) {
                    check(blaze_tenant_set(engine, text.as_ptr(), &mut error), &error);
                }
            }
            _ => {
                if !refused(ChangeConfig::from_json(json)) {
                    check(blaze_model_configure(engine, model, text.as_ptr(), &mut error), &error);
                }
            }
        }
        if kind & 0x80 != 0 {
            // Whatever was applied, the reports are JSON still.
            let health = blaze_fuzz::text(|to, room, needed| blaze_health_json(engine, to, room, needed));
            serde_json::from_str::<serde_json::Value>(&health.expect("a text")).expect("JSON");
            blaze_metrics_text(engine, BLAZE_METRICS_PROMETHEUS, null_mut(), 0, &mut 0);
        }
    }
});
