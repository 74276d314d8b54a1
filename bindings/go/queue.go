package blaze

// #include "shim.h"
import "C"

import (
	"math"
	"time"
	"unsafe"
)

// queue is a completion queue and what its events are for. One goroutine takes them, up to 256 in a call of C; or
// [Engine.Pump] does, of an engine without threads.
type queue struct {
	handle  *C.blaze_queue
	batch   *C.blazego_batch
	waiting futures
	ready   []*Future
	errors  []*Error
	names   map[string]string
	bytes   []uint64 // what is left of the latest slab
	shapes  []int64
}

func newQueue(engine *C.blaze_engine, capacity uint32) (*queue, error) {
	q := &queue{names: map[string]string{}}
	var failure C.blaze_error
	if err := fail(C.blaze_queue_create(engine, C.uint32_t(capacity), &q.handle, &failure), &failure); err != nil {
		return nil, err
	}
	if q.batch = C.blazego_batch_new(); q.batch == nil {
		C.blaze_queue_destroy(q.handle)
		return nil, &Error{Status: ErrOutOfMemory}
	}
	return q, nil
}

// take waits for events and resolves their futures. It returns how many events there were.
func (q *queue) take(timeout time.Duration) int {
	limit := C.uint64_t(math.MaxUint64)
	if timeout >= 0 {
		limit = C.uint64_t(timeout)
	}
	count := int(C.blazego_wait(q.handle, q.batch, limit))
	if count == 0 {
		return 0
	}
	events := q.batch.events[:count]
	q.ready, q.errors = q.ready[:0], q.errors[:0]
	q.waiting.mu.Lock()
	for i := range events {
		last := events[i].kind == C.BLAZE_EVENT_DONE
		q.ready = append(q.ready, q.waiting.get(uint64(events[i].user_data), last))
	}
	q.waiting.mu.Unlock()

	outputs := unsafe.Slice(q.batch.outputs, int(q.batch.outputs_capacity))
	for i := range events {
		event, future := &events[i], q.ready[i]
		views := outputs[:event.outputs_count]
		outputs = outputs[event.outputs_count:]
		switch {
		case future == nil:
		case event.kind == C.BLAZE_EVENT_PROGRESS:
			if future.progress != nil {
				future.progress(C.GoString(event.text), float64(event.progress))
			}
		case event.kind == C.BLAZE_EVENT_DONE:
			q.finish(future, event, views)
		}
	}
	clear(q.ready)
	return count
}

func (q *queue) finish(future *Future, event *C.blaze_event, views []C.blazego_output) {
	text := ""
	if event.text != nil {
		text = C.GoStringN(event.text, C.int(event.text_bytes))
	}
	if event.status != 0 {
		future.end(&Error{Status: Status(event.status), Message: text})
		return
	}
	future.text = text
	response := &future.response
	response.Model = uint64(event.model)
	response.Timing = timing(&event.timing)
	if len(views) <= len(future.first) {
		response.Outputs = future.first[:len(views)]
	} else {
		response.Outputs = make([]Raw, len(views))
	}
	for i := range views {
		q.copyOutput(&response.Outputs[i], &views[i])
	}
	future.end(nil)
}

// at makes a pointer of an address of C's.
func at(address *C.uint64_t) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(address)) }

func (q *queue) copyOutput(to *Raw, from *C.blazego_output) {
	if from.name_bytes > 0 {
		to.Name = q.name(unsafe.Slice((*byte)(at(&from.name)), int(from.name_bytes)))
	}
	to.DType = DType(from.dtype)
	if rank := int(from.rank); rank > 0 {
		to.Shape = q.shape(rank)
		copy(to.Shape, unsafe.Slice((*int64)(at(&from.shape)), rank))
	}
	size := int(from.size_bytes)
	switch {
	case size == 0:
	case to.DType == String:
		texts := unsafe.Slice((*C.blaze_string)(at(&from.data)), size/C.sizeof_blaze_string)
		to.Strings = make([]string, len(texts))
		for i := range texts {
			to.Strings[i] = C.GoStringN(texts[i].data, C.int(texts[i].size_bytes))
		}
	default:
		to.Data = q.room(size)
		copy(to.Data, unsafe.Slice((*byte)(at(&from.data)), size))
	}
}

// name returns the same string for the same bytes every time, so that a name is not copied for each response.
func (q *queue) name(bytes []byte) string {
	if name, ok := q.names[string(bytes)]; ok {
		return name
	}
	if len(q.names) >= 4096 {
		clear(q.names)
	}
	name := string(bytes)
	q.names[name] = name
	return name
}

// Small outputs share slabs: one allocation for many. A slab lives as long as one of its outputs does, so slabs are small.
const (
	slabWords = 512
	slabShare = 64 // words: larger outputs have memory of their own
)

func (q *queue) room(size int) []byte {
	words := (size + 7) / 8
	var memory []uint64
	if words > slabShare {
		memory = make([]uint64, words)
	} else {
		if len(q.bytes) < words {
			q.bytes = make([]uint64, slabWords)
		}
		memory, q.bytes = q.bytes[:words], q.bytes[words:]
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&memory[0])), words*8)[:size:size]
}

func (q *queue) shape(rank int) []int64 {
	if len(q.shapes) < rank {
		q.shapes = make([]int64, slabWords)
	}
	shape := q.shapes[:rank:rank]
	q.shapes = q.shapes[rank:]
	return shape
}

// free ends the queue. The engine is destroyed, so that the queue cannot be busy.
func (q *queue) free() {
	C.blazego_batch_free(q.batch)
	C.blaze_queue_destroy(q.handle)
}
