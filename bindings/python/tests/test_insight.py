"""Routes, tenants, strategies, health, metrics, logs, profiles, tuning: all of the ABI is reachable."""

from __future__ import annotations

import json
import logging
import threading

import blaze
import numpy as np
import pytest
from conftest import DIGITS, IMAGES, LABELS, MODELS, eventually

ROW = np.full((1, 4), 0.5, np.float32)


def test_routes(engine: blaze.Engine) -> None:
    a, b = engine.load(MODELS / "tiny.onnx", name="a"), engine.load(MODELS / "tiny.onnx", name="b")
    route = engine.route(name="any", targets=[{"model": "a"}, {"model": "b"}])
    assert {route.infer(ROW).model_handle for _ in range(10)} == {a.handle, b.handle}
    np.testing.assert_array_equal(route(ROW), a(ROW))
    assert isinstance(engine.find("any"), blaze.Route) and not isinstance(engine.find("a"), blaze.Route)
    route.drain_target("b")
    assert {route.infer(ROW).model_handle for _ in range(10)} == {a.handle}
    route.drain_target("b", False)
    route.remove_target("a")
    assert {route.submit(ROW).result(20).model_handle for _ in range(10)} == {b.handle}
    route.add_target(model="a", weight=3)
    route.update({"name": "any", "targets": [{"model": "a"}], "strategy": "least_loaded"})
    assert [target["model"] for target in route.info()["targets"]] == ["a"]
    with pytest.raises(blaze.NotFoundError):
        route.remove_target("c")
    route.destroy()
    with pytest.raises(blaze.NotFoundError):
        route(ROW)


def test_a_strategy_in_python(engine: blaze.Engine) -> None:
    handles = [engine.load(MODELS / "tiny.onnx", name=name).handle for name in "abc"]
    seen: list[blaze.Choice] = []

    def pick(targets: list[blaze.Target], choice: blaze.Choice) -> int:
        seen.append(choice)
        assert [target.model for target in targets] == ["a", "b", "c"]
        return choice.session % len(targets)

    def fails(targets: list[blaze.Target], choice: blaze.Choice) -> int:
        raise ValueError("no idea")

    engine.register_strategy("by_session", pick)
    engine.register_strategy("fails", fails)
    targets = [{"model": name} for name in "abc"]
    route = engine.route(name="r", targets=targets, strategy="by_session")
    assert [route.infer(ROW, session=session, tenant=9).model_handle for session in (3, 4, 5)] == handles
    assert seen[0].tenant == 9
    assert engine.route(name="f", targets=targets, strategy="fails").infer(ROW).model_handle == handles[0]


def test_tenants_have_limits(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "tiny.onnx")
    engine.set_tenant(id=7, limits={"requests_per_second": 0.001, "burst": 1})
    model.infer(ROW, tenant=7)
    with pytest.raises(blaze.CapacityError):
        model.infer(ROW, tenant=7)
    model.infer(ROW, tenant=8)


def test_health_metrics_and_advice(engine: blaze.Engine, digits: blaze.Model) -> None:
    for _ in range(10):
        digits(IMAGES[:4])
    info, metrics = engine.health_info(), engine.metrics()
    assert info.models_ready == 1 and info.accepting and info.live and info.memory_bytes > 0
    assert metrics.requests_ok == 10 and metrics.rows >= 40 and metrics.duration.p50_ns > 0
    assert engine.health()["models"][0]["name"].startswith("digits")
    assert "blaze_" in engine.metrics_text() and engine.metrics_json() and engine.trends()
    assert isinstance(engine.advice()["findings"], list)
    engine.set_budget(64 << 20)
    assert engine.health()["memory"]["budget_bytes"] == 64 << 20
    engine.set_budget(None)
    engine.trim()
    assert blaze.library_version().count(".") == 2


def test_logs_come_to_logging(engine: blaze.Engine, caplog: pytest.LogCaptureFixture) -> None:
    class Asks(logging.Handler):
        """A handler that calls into Blaze, which the library's own callback must not."""

        def emit(self, record: logging.LogRecord) -> None:
            asked.append(engine.health_info().state)

    asked: list[int] = []
    handler = Asks()
    logging.getLogger("blaze.model").addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, logger="blaze"):
            engine.log_to(level="debug")
            engine.load(DIGITS).unload()
            eventually(lambda: any(record.name == "blaze.model" for record in caplog.records))
        eventually(lambda: bool(asked))
    finally:
        logging.getLogger("blaze.model").removeHandler(handler)
    assert all(isinstance(record.blaze, dict) for record in caplog.records if record.name.startswith("blaze."))
    engine.configure_log(level="off")


def test_what_is_said_while_an_engine_is_made_comes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "blaze")
    with blaze.Engine(log={"target": "callback", "level": "info"}, models=[{"path": str(DIGITS), "name": "early"}]) as engine:
        engine.log_to(level="info")
        eventually(lambda: any(record.blaze.get("model") == "early:1" for record in caplog.records))


def test_profiles(engine: blaze.Engine, digits: blaze.Model) -> None:
    with pytest.raises(blaze.StateError):
        engine.profile_report()
    engine.profile_start(level="comprehensive")
    digits(IMAGES[:4])
    report = json.loads(engine.profile_report())
    assert report["requests"] >= 1
    assert engine.profile_report("html").lstrip().startswith("<") and json.loads(engine.profile_report("trace"))
    engine.profile_stop()
    with pytest.raises(blaze.ArgumentError):
        engine.profile_report("pdf")


def test_tuning(engine: blaze.Engine) -> None:
    model = engine.load(MODELS / "tiny.onnx")
    model.configure(batching={"max_rows": 16})
    assert model.info()["batching"]["max_rows"] == 16
    search = {"model": "tiny", "max_rows": [8, 16], "max_delay_us": [0], "seconds_per_point": 0.02, "in_flight": 8}
    assert len(engine.tune(search)["points"]) >= 2
    assert engine.tune_async(search).result(60)["best"]
    assert "models" in engine.tune_report()
    future = engine.tune_async({**search, "seconds_per_point": 60})
    assert future.cancel()


def test_a_repository(tmp_path: object, digits: blaze.Model) -> None:
    import pathlib
    import shutil

    root = pathlib.Path(str(tmp_path))
    (root / "tiny" / "1").mkdir(parents=True)
    shutil.copy(MODELS / "tiny.onnx", root / "tiny" / "1" / "model.onnx")
    with blaze.Engine(repository={"directory": str(root)}) as engine:
        model = engine.find("tiny")
        shutil.copytree(root / "tiny" / "1", root / "tiny" / "2")
        assert engine.rescan()["models"]
        assert model(ROW).shape == (1, 2) and engine.find("tiny:2")
    with pytest.raises(blaze.StateError):
        digits.engine.rescan()


def test_several_engines_at_once() -> None:
    engines = [blaze.Engine(threads=1) for _ in range(4)]
    models = [engine.load(DIGITS) for engine in engines]
    futures = [model.submit(IMAGES[i : i + 1]) for i in range(50) for model in models]
    assert [future.result(60)[0].argmax() for future in futures] == [LABELS[i] for i in range(50) for _ in models]
    for engine in engines:
        engine.close()
    assert not any(thread.name == "blaze-futures" and thread.is_alive() for thread in threading.enumerate())
