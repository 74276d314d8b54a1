"""Handwritten digits, step by step, as one would in a notebook: run the parts between the lines of `# %%` one by one.

From the checkout, after `make release`:
    PYTHONPATH=bindings/python BLAZE_LIBRARY=target/release/libblaze.so \
    ORT_DYLIB_PATH=target/onnxruntime/lib/libonnxruntime.so python3 bindings/python/examples/digits.py
"""

# %% The data: 450 held-out images of 8×8 pixels, each a byte from 0 to 16, followed by its label.
import asyncio
from pathlib import Path

import blaze
import numpy as np

digits_of = Path(__file__).resolve().parents[3] / "models" / "digits"
records = np.fromfile(digits_of / "digits-test.bin", np.uint8).reshape(-1, 65)
images = (records[:, :64].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
labels = records[:, 64]

# %% An engine and a model. Without `with`, an engine lives until nobody refers to it or its models.
engine = blaze.Engine(threads=1)
model = engine.load(digits_of / "digits.onnx")
print("inputs", model.info()["inputs"], "outputs", model.info()["outputs"])

# %% One image. The result is a numpy array over the engine's memory: nothing was copied.
probabilities = model(images[:1])
print("the first one is a", probabilities.argmax(), "and the label says", labels[0])

# %% Many at once: the engine joins them into batches.
futures = [model.submit(images[i : i + 1]) for i in range(len(images))]
guesses = np.array([future.result()[0].argmax() for future in futures])
rows = np.mean([future.result().timing.batch_rows for future in futures])
print(f"{(guesses == labels).mean():.4f} are right; {rows:.1f} rows per batch")


# %% The same in an event loop. (In a notebook, which has a loop already: `await ask_all()`.)
async def ask_all() -> list[blaze.Outputs]:
    return await asyncio.gather(*(model.infer_async(image[None], deadline=5) for image in images))


answers = asyncio.run(ask_all())
assert all(answer["probabilities"].argmax() == guess for answer, guess in zip(answers, guesses))

# %% The same request again and again, into the same memory: nothing is allocated.
image, scores = images[:1].copy(), np.empty((1, 10), np.float32)
request = model.prepare(image, out=scores)
for image[:] in images[:20, None]:
    request()

# %% What went wrong is an exception with a status.
try:
    model(images[0])
except blaze.ArgumentError as error:
    print(error)

# %% How it went.
metrics = engine.metrics()
print(f"{metrics.requests_ok} requests, p99 {metrics.duration.p99_ns / 1e6:.2f} ms, {metrics.rows / metrics.batches:.1f} rows per batch")

# %% The model goes, and says what became of its memory. Arrays that are still in use stay readable.
receipt = model.unload()
engine.close()
print(f"freed {receipt['freed_bytes']} of {receipt['bytes_before']} bytes; still {probabilities.sum():.2f}")
assert (guesses == labels).mean() > 0.95
