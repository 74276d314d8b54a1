#!/usr/bin/env python3
"""What becomes of a row whose program cannot be run, says nonsense, or takes too long; and what is written of the others."""

import argparse
import json
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import run  # noqa: E402


class Rows(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        run.HERE = Path(self.folder.name)
        (run.HERE / "bin").mkdir()
        self.report = run.Report(run.HERE / "out")
        self.bench = run.Bench(argparse.Namespace(budget=540), self.report, run.HERE)

    def tearDown(self):
        self.folder.cleanup()

    def program(self, text, mode=0o755):
        path = run.HERE / "bin" / "p"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(mode)

    def tried(self, work=None):
        """The latest entry of FAILED, as it is in the file."""
        found = self.bench.try_("row", work or (lambda: self.bench.program("p", "mode")))
        self.assertIsNone(found)
        return json.loads((run.HERE / "out" / "gpu.json").read_text())["failed"][-1][1]

    def test_results_are_numbers(self):
        self.program("""echo '{"name": "a", "value": 2}'; echo '{"name": "b", "text": "c"}'""")
        self.assertEqual(self.bench.program("p", "mode"), {"a": 2, "b": "c"})
        for value, said in (("null", "a is no number"), ("NaN", "a is no number"), ("nan", "JSONDecodeError")):
            self.program("echo '{\"name\": \"a\", \"value\": %s}'" % value)
            self.assertIn(said, self.tried())

    def test_whatever_fails_costs_one_row(self):
        self.program("exit 0", mode=0o644)
        self.assertIn("PermissionError", self.tried())
        self.assertIn("KeyError", self.tried(lambda: {}["latency_p50"]))
        self.assertIn("ZeroDivisionError", self.tried(lambda: 1 / 0))
        self.report.add("what", "where", "1")
        text = (run.HERE / "out" / "gpu.md").read_text()
        self.assertIn("| what", text)
        self.assertIn("- row: KeyError", text)

    def test_what_there_is_no_time_for_is_listed(self):
        self.program("sleep 60")
        self.addCleanup(setattr, run, "LEAST_SECONDS", run.LEAST_SECONDS)
        run.LEAST_SECONDS = 0.1
        self.bench.until = time.time() + 0.5
        for said in ("did not end within", "no time was left"):
            self.assertIsNone(self.bench.try_("row", lambda: self.bench.program("p", "mode")))
            self.assertIn(said, str(self.report.skipped[-1][1]))
        self.assertEqual(self.report.failed, [])


if __name__ == "__main__":
    unittest.main(buffer=True)
