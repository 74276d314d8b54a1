// Package baseline does in C what the benchmarks do in Go, so that what Go adds can be told.
package baseline

// #cgo pkg-config: blaze
// #include <blaze.h>
// #include <stdlib.h>
//
// static blaze_request describe(blaze_model model, blaze_tensor *input, const int64_t *shape, float *row, size_t row_bytes) {
//     *input = (blaze_tensor)BLAZE_TENSOR_INIT;
//     input->dtype = BLAZE_DTYPE_F32;
//     input->shape = shape, input->rank = 2;
//     input->data = row, input->size_bytes = row_bytes;
//     blaze_request request = BLAZE_REQUEST_INIT;
//     request.model = model;
//     request.inputs = input, request.inputs_count = 1;
//     return request;
// }
//
// /* Rounds of `batch` submits and as many events, whose outputs are read. Returns nanoseconds, 0 for a failure. */
// static uint64_t submit_rounds(blaze_engine *engine, blaze_queue *queue, blaze_model model, float *row, size_t columns,
//                               uint32_t batch, uint32_t rounds, float *sum) {
//     const int64_t shape[] = {1, (int64_t)columns};
//     blaze_event events[256];
//     blaze_tensor input, output;
//     blaze_request request = describe(model, &input, shape, row, columns * sizeof *row);
//     uint64_t started = blaze_now_ns();
//     for (uint32_t round = 0; round < rounds; round++) {
//         for (uint32_t i = 0; i < batch; i++)
//             if (blaze_submit(engine, &request, queue, NULL, NULL)) return 0;
//         for (uint32_t done = 0; done < batch;) {
//             uint32_t count = blaze_wait(queue, events, sizeof events[0], 256, UINT64_MAX);
//             for (uint32_t i = 0; i < count; i++, done++) {
//                 output = (blaze_tensor)BLAZE_TENSOR_INIT;
//                 if (blaze_event_output(&events[i], 0, &output)) return 0;
//                 *sum += *(const float *)output.data;
//                 blaze_event_release(&events[i]);
//             }
//         }
//     }
//     return blaze_now_ns() - started;
// }
//
// static uint64_t infer_rounds(blaze_engine *engine, blaze_model model, float *row, size_t columns, uint32_t rounds, float *sum) {
//     const int64_t shape[] = {1, (int64_t)columns};
//     blaze_tensor input, output;
//     blaze_request request = describe(model, &input, shape, row, columns * sizeof *row);
//     uint64_t started = blaze_now_ns();
//     for (uint32_t round = 0; round < rounds; round++) {
//         blaze_event event = BLAZE_EVENT_INIT;
//         if (blaze_infer(engine, &request, UINT64_MAX, &event, NULL)) return 0;
//         output = (blaze_tensor)BLAZE_TENSOR_INIT;
//         if (blaze_event_output(&event, 0, &output)) return 0;
//         *sum += *(const float *)output.data;
//         blaze_event_release(&event);
//     }
//     return blaze_now_ns() - started;
// }
//
// static int nothing(int value) { return value; }
import "C"

import (
	"errors"
	"time"
	"unsafe"
)

// Engine is an engine with one model, whose input is rows of floats.
type Engine struct {
	engine *C.blaze_engine
	queue  *C.blaze_queue
	model  C.blaze_model
	row    []float32
	sum    C.float
}

// New makes an engine, and finds the model.
func New(config, model string, columns int) (*Engine, error) {
	e := &Engine{row: make([]float32, columns)}
	text, name := C.CString(config), C.CString(model)
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(name))
	if C.blaze_engine_create(text, &e.engine, nil) != 0 {
		return nil, errors.New("the engine cannot be made")
	}
	if C.blaze_queue_create(e.engine, 1024, &e.queue, nil) != 0 || C.blaze_model_find(e.engine, name, &e.model) != 0 {
		return nil, errors.New("there is no such model")
	}
	return e, nil
}

// Close frees the engine.
func (e *Engine) Close() {
	C.blaze_engine_destroy(e.engine)
	C.blaze_queue_destroy(e.queue)
}

// Submit submits so many requests and waits for all, in each of the rounds.
func (e *Engine) Submit(batch, rounds int) time.Duration {
	return time.Duration(C.submit_rounds(e.engine, e.queue, e.model, (*C.float)(unsafe.Pointer(&e.row[0])), C.size_t(len(e.row)),
		C.uint32_t(batch), C.uint32_t(rounds), &e.sum))
}

// Infer calls blaze_infer so often.
func (e *Engine) Infer(rounds int) time.Duration {
	return time.Duration(C.infer_rounds(e.engine, e.model, (*C.float)(unsafe.Pointer(&e.row[0])), C.size_t(len(e.row)), C.uint32_t(rounds), &e.sum))
}

// Crossing calls a C function that does nothing so often.
func Crossing(rounds int) time.Duration {
	started := time.Now()
	for i := range rounds {
		C.nothing(C.int(i))
	}
	return time.Since(started)
}
