"""The service under load: 5,000 requests/s for a minute, and then SIGTERM while as many come.

usage: bench_service.py DIRECTORY-OF-THE-PROGRAMS ROOT-OF-THE-REPOSITORY [SECONDS]

Fails if a request was not answered, or not with 200. How fast the service is, is only printed.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS, ROOT = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 60
RATE = 5000


def body(directory):
    """A held-out digit as a request."""
    pixels = (ROOT / "models/digits/digits-test.bin").read_bytes()[:64]
    data = [value / 16 for value in pixels]
    path = directory / "body.json"
    path.write_text(json.dumps({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": data}]}))
    return path


def serve(directory):
    """Starts the service, and returns it with its address."""
    path = directory / "engine.json"
    path.write_text(json.dumps({"models": [{"name": "digits", "path": str(ROOT / "models/digits/digits.onnx")}]}))
    service = subprocess.Popen([PROGRAMS / "blaze-serve", "-listen", "127.0.0.1:0", path], stdout=subprocess.PIPE, text=True)
    return service, service.stdout.readline().split()[-1]


def load(directory, address, seconds, *more):
    """Starts the load generator."""
    url = f"http://{address}/v2/models/digits/infer"
    command = [PROGRAMS / "blaze-load", "-rate", str(RATE), "-duration", f"{seconds}s", "-body", body(directory), *more, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def cpu_seconds(process):
    """What a process has used of its cores."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check(result, service, address):
    """That every request was answered, and by whom."""
    code = service.wait(timeout=60)
    said = service.stdout.read().strip()
    lost = result["unanswered"] + result["cut_off"]
    print(f"service at {address}: {said!r}, exit {code}; sent {result['sent']}, answered {result['answered']}, lost {lost}")
    assert code == 0 and said == f"answered all of {result['answered']} requests", said
    assert lost == 0 and result["ok"] == result["answered"] == result["sent"], result


def main():
    """Both runs."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        print(f"load averages: {' '.join(f'{value:.1f}' for value in os.getloadavg())}, {os.cpu_count()} cores")
        service, address = serve(directory)
        running = load(directory, address, SECONDS)
        time.sleep(SECONDS * 0.9)
        used = cpu_seconds(service) / (SECONDS * 0.9), cpu_seconds(running) / (SECONDS * 0.9)
        result = json.loads(running.communicate()[0])
        print(json.dumps(result, indent=2))
        print(f"cores used: the service {used[0]:.2f}, the load generator {used[1]:.2f}")
        service.send_signal(signal.SIGTERM)
        check(result, service, address)

        print("SIGTERM under load:")
        service, address = serve(directory)
        running = load(directory, address, 30, "-until-closed")
        time.sleep(3)
        service.send_signal(signal.SIGTERM)
        check(json.loads(running.communicate()[0]), service, address)


if __name__ == "__main__":
    main()
