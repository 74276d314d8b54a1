"""The service with a real client of the protocol, tritonclient, and with plain HTTP for what that client never does.

Without tritonclient, which is not there for every Python and platform, only with plain HTTP.

usage: test_service.py BLAZE-SERVE ROOT-OF-THE-REPOSITORY
"""

import contextlib
import gzip
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import threading
import unittest
import zlib

from prometheus_client.parser import text_string_to_metric_families

try:
    import numpy
    import tritonclient.http as triton
except ImportError:
    triton = None

SERVE, ROOT = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()


def mock(name, dtype="f32", **more):
    tensor = {"dtype": dtype, "shape": ["rows", 4]}
    return {
        "name": name,
        "backend": "mock",
        "mock": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}], **more},
    }


CONFIGURATION = {
    "models": [
        {"name": "digits", "path": str(ROOT / "models/digits/digits.onnx")},
        {"name": "texts", "path": str(ROOT / "tests/models/identity_string.onnx")},
        mock("affine"),
        mock("half", "f16", compute="echo"),
        mock("wide", "i64", compute="echo"),
        mock("slow", latency_us=300_000),
        mock("failing", faults=[{"kind": "error"}]),
    ],
    "tenants": {"list": [{"id": 7, "limits": {"requests_per_second": 0.01, "burst": 1}}]},
}


class Service:
    """A service of its own, which must end well."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [SERVE, "-listen", "127.0.0.1:0", *arguments, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdin.write(json.dumps(CONFIGURATION))
        self.process.stdin.close()
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.address = line.split()[-1]

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=60)

    def ask(self, method, path, body=None, headers=None, connection=None):
        if connection is None:
            with contextlib.closing(self.connect()) as connection:
                return self.ask(method, path, body, headers, connection)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.ended()

    def ended(self):
        with self.process.stdout:
            said = self.process.stdout.read()
        return self.process.wait(timeout=60), said


def row(first):
    return numpy.arange(first, first + 4, dtype=numpy.float32).reshape(1, 4)


def tensor(name, values, datatype, binary=True):
    made = triton.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def affine(**changes):
    request = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    request["inputs"][0].update(changes)
    return json.dumps(request)


class PlainHttp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service("-max-body", "100000")

    @classmethod
    def tearDownClass(cls):
        code, said = cls.service.end(signal.SIGINT)
        assert code == 0 and "answered all" in said, (code, said)

    def infer(self, model, body, headers=None):
        status, headers, answer = self.service.ask("POST", f"/v2/models/{model}/infer", body, headers)
        return status, headers, json.loads(answer)

    def test_a_packed_body(self):
        for pack, how in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
            self.assertEqual(self.infer("affine", pack(affine().encode()), {"Content-Encoding": how})[0], 200)
        bomb = gzip.compress(b" " * 10_000_000)
        self.assertEqual(self.infer("affine", bomb, {"Content-Encoding": "gzip"})[0], 413)
        self.assertEqual(self.infer("affine", b"no gzip", {"Content-Encoding": "gzip"})[0], 400)
        self.assertEqual(self.infer("affine", affine(), {"Content-Encoding": "br"})[0], 415)

    def test_what_is_wrong_is_said(self):
        for body, code in [
            (affine(), 200),
            (affine(data=[[1, 2, 3, 4]]), 200),
            (affine(data=[1, 2, 3]), 400),
            (affine(data=[1, 2, 3, 4, 5]), 400),
            (affine(data=[1, 2, 3, "x"]), 400),
            (affine(data=None), 400),
            (affine(name="z"), 400),
            (affine(shape=[1, 5], data=[1] * 5), 400),
            (affine(shape=[-1, 4]), 400),
            (affine(shape=[2**62, 2**62]), 400),
            (affine(shape=[2**31, 4]), 400),
            (affine(datatype="FP64"), 400),
            (affine(datatype="FP99"), 400),
            (affine(datatype="FP16"), 400),
            (affine(parameters={"binary_data_size": 16}), 400),
            ("{}", 400),
            ("[]", 400),
            ('{"inputs": [', 400),
            ("", 400),
            (" " * 100_001, 413),
        ]:
            status, _, answer = self.infer("affine", body)
            self.assertEqual(status, code, (body[:200], answer))
            self.assertEqual("error" in answer, code != 200, answer)
        for header in ("-1", "x", "99999999"):
            self.assertEqual(self.infer("affine", affine(), {"Inference-Header-Content-Length": header})[0], 400)
        self.assertEqual(self.infer("affine", affine() + "more", {"Inference-Header-Content-Length": str(len(affine()))})[0], 400)

    def test_errors_have_their_codes(self):
        self.assertEqual(self.infer("nobody", affine())[0], 404)
        self.assertEqual(self.service.ask("GET", "/v2/models/nobody")[0], 404)
        self.assertEqual(self.service.ask("GET", "/v3")[0], 404)
        self.assertEqual(self.infer("failing", affine())[0], 500)
        body = json.loads(affine())
        body["parameters"] = {"timeout": 1000}
        self.assertEqual(self.infer("slow", json.dumps(body))[0], 504)

    def test_who_asks_too_often_is_told_when_to_come_back(self):
        answers = [self.infer("affine", affine(), {"X-Tenant-Id": "7"}) for _ in range(3)]
        self.assertEqual([status for status, _, _ in answers], [200, 429, 429])
        self.assertGreater(int(answers[1][1]["Retry-After"]), 10)
        self.assertIn("RATE_LIMITED", answers[1][2]["error"])

    def test_health_and_metrics(self):
        for path in ("/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready"):
            self.assertEqual(self.service.ask("GET", path)[0], 200, path)
        self.infer("affine", affine())
        families = {family.name for family in text_string_to_metric_families(self.service.ask("GET", "/metrics")[2].decode())}
        self.assertTrue(any(name.startswith("blaze_requests") for name in families), families)


@unittest.skipIf(triton is None, "there is no tritonclient")
class TritonsClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service()
        cls.client = triton.InferenceServerClient(cls.service.address, concurrency=8)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        code, said = cls.service.end(signal.SIGINT)
        assert code == 0 and "answered all" in said, (code, said)

    def test_the_server_describes_itself(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        about = self.client.get_server_metadata()
        self.assertEqual(about["name"], "blaze")
        self.assertIn("binary_tensor_data", about["extensions"])

    def test_models_are_described(self):
        self.assertTrue(self.client.is_model_ready("digits"))
        self.assertTrue(self.client.is_model_ready("digits", "1"))
        self.assertFalse(self.client.is_model_ready("digits", "9"))
        about = self.client.get_model_metadata("affine", "1")
        self.assertEqual(about["name"], "affine")
        self.assertEqual(about["versions"], ["1"])
        self.assertEqual(about["inputs"], [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
        self.assertEqual(about["outputs"], [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}])

    def test_tensors_go_in_and_out_as_binary_data_and_as_json(self):
        for binary_in in (True, False):
            for binary_out in (True, False, None):
                outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
                result = self.client.infer(
                    "affine", [tensor("x", row(3), "FP32", binary_in)], outputs=outputs, request_id="a \"request\""
                )
                numpy.testing.assert_array_equal(result.as_numpy("y"), 2 * row(3) + 1)
                about = result.get_response()
                self.assertEqual((about["id"], about["model_name"], about["model_version"]), ("a \"request\"", "affine", "1"))

    def test_other_element_types(self):
        half = row(1).astype(numpy.float16)
        result = self.client.infer("half", [tensor("x", half, "FP16")])
        numpy.testing.assert_array_equal(result.as_numpy("y"), half)
        wide = numpy.array([[-(2**63), 2**63 - 1, 2**53 + 1, 0]], dtype=numpy.int64)
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
            result = self.client.infer("wide", [tensor("x", wide, "INT64", binary)], outputs=outputs)
            numpy.testing.assert_array_equal(result.as_numpy("y"), wide)

    def test_texts(self):
        about = self.client.get_model_metadata("texts")
        name, output = about["inputs"][0]["name"], about["outputs"][0]["name"]
        texts = numpy.array([["", "one", "zwölf \" [,]", "x" * 999]], dtype=object)
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput(output, binary_data=binary)]
            result = self.client.infer("texts", [tensor(name, texts, "BYTES", binary)], outputs=outputs)
            got = [text if isinstance(text, str) else text.decode() for text in result.as_numpy(output).flatten()]
            self.assertEqual(got, list(texts.flatten()))

    def test_digits_are_told_apart(self):
        records = numpy.fromfile(ROOT / "models/digits/digits-test.bin", dtype=numpy.uint8).reshape(-1, 65)
        images = (records[:, :64] / 16).astype(numpy.float32).reshape(-1, 1, 8, 8)
        about = self.client.get_model_metadata("digits")
        name, output = about["inputs"][0]["name"], about["outputs"][0]["name"]
        waiting = [self.client.async_infer("digits", [tensor(name, image[None], "FP32")]) for image in images]
        right = sum(
            answer.get_result().as_numpy(output).argmax() == label for answer, label in zip(waiting, records[:, 64])
        )
        self.assertGreaterEqual(right, 0.95 * len(records))

    def test_a_packed_body(self):
        for how in ("gzip", "deflate"):
            result = self.client.infer("affine", [tensor("x", row(3), "FP32")], request_compression_algorithm=how)
            numpy.testing.assert_array_equal(result.as_numpy("y"), 2 * row(3) + 1)

    def test_errors_have_their_texts(self):
        with self.assertRaises(triton.InferenceServerException) as caught:
            self.client.infer("affine", [tensor("z", row(1), "FP32")])
        self.assertIn("INVALID_NAME", str(caught.exception))


class Shutdown(unittest.TestCase):
    def test_what_was_sent_is_answered(self):
        service = Service("-drain-delay", "300ms")
        idle = service.connect()
        service.ask("GET", "/healthz", connection=idle)
        codes = []

        def send():
            with contextlib.closing(service.connect()) as connection:
                connection.request("POST", "/v2/models/slow/infer", affine())
                sent.release()
                codes.append(connection.getresponse().status)

        sent = threading.Semaphore(0)
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in threads:
            sent.acquire()
        service.process.send_signal(signal.SIGTERM)
        # It says that it is not ready, and goes on.
        while service.ask("GET", "/readyz")[0] != 503:
            pass
        # A connection goes on until an answer says that it ends.
        end = None
        while end is None:
            status, headers, _ = service.ask("POST", "/v2/models/affine/infer", affine(), connection=idle)
            self.assertEqual(status, 200)
            end = headers["Connection"]
        self.assertEqual(end, "close")
        for thread in threads:
            thread.join()
        self.assertEqual(codes, [200] * len(threads))
        idle.close()
        code, said = service.ended()
        self.assertEqual(code, 0)
        self.assertIn("answered all", said)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
