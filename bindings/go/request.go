package blaze

// #cgo pkg-config: blaze
// #cgo !windows LDFLAGS: -lpthread
// #include "shim.h"
import "C"

import (
	"context"
	"runtime"
	"sync"
	"time"
	"unsafe"
)

// Priority says how urgent a request is. What waits long enough overtakes any priority.
type Priority int32

// The priorities; the zero value is the normal one.
const (
	PriorityLow      Priority = C.BLAZE_PRIORITY_LOW
	PriorityNormal   Priority = C.BLAZE_PRIORITY_NORMAL
	PriorityHigh     Priority = C.BLAZE_PRIORITY_HIGH
	PriorityCritical Priority = C.BLAZE_PRIORITY_CRITICAL
)

// Request is one piece of work with everything that can be said about it. Inputs are copied before a call that takes it
// returns.
type Request struct {
	// Inputs are the model's inputs, by name, or by position where they have none.
	Inputs []Value
	// Priority says how urgent it is.
	Priority Priority
	// Timeout limits the request besides its context, from the call on; 0: it does not.
	Timeout time.Duration
	// Tenant is whose limits the request is under; 0: nobody's.
	Tenant uint64
	// Session has routes send requests of one session to one target; 0: none.
	Session uint64
	// RouteKey has routes with "hash_on": "key" send requests with one key to one target; 0: none.
	RouteKey uint64
}

// pinFrom is the size of an input from which on it is pinned for the call, rather than copied into the encoder's memory:
// pinning costs about as much as copying so many bytes.
const pinFrom = 4096

// encoder describes requests to the shim, in memory without pointers.
type encoder struct {
	requests []C.blazego_request
	tensors  []C.blazego_tensor
	payload  []uint64
	messages []byte
	pinner   runtime.Pinner
	pinned   bool

	// What else a call needs, kept for the next one.
	numbers []uint64
	places  []int
	// These are handed to C by address, so they are not part of something that has Go's pointers.
	result  *C.blazego_result
	outputs []C.blazego_output
}

var encoders = sync.Pool{New: func() any {
	return &encoder{result: new(C.blazego_result), outputs: make([]C.blazego_output, 4)}
}}

func newEncoder() *encoder {
	e := encoders.Get().(*encoder)
	e.requests = e.requests[:0]
	e.tensors = e.tensors[:0]
	// An offset of 0 says that there is no name, so nothing may be there.
	e.payload = append(e.payload[:0], 0)
	return e
}

// keepBytes is how large an encoder may be that is kept for later.
const keepBytes = 1 << 20

func (e *encoder) free() {
	if e.pinned {
		e.pinner.Unpin()
		e.pinned = false
	}
	if cap(e.payload) <= keepBytes/8 {
		encoders.Put(e)
	}
}

// room adds so many bytes, aligned, and returns where they are. The slice is valid until the next call.
func (e *encoder) room(size int) (int, []byte) {
	at, words := len(e.payload), (size+7)/8
	for cap(e.payload)-at < words {
		e.payload = append(e.payload[:cap(e.payload)], 0)[:at]
	}
	e.payload = e.payload[:at+words]
	if words == 0 {
		return at * 8, nil
	}
	e.payload[at+words-1] = 0
	return at * 8, unsafe.Slice((*byte)(unsafe.Pointer(&e.payload[at])), words*8)
}

// add describes a request.
func (e *encoder) add(request *Request, model, userData uint64, timeout time.Duration) error {
	if request.Timeout > 0 && (timeout == 0 || request.Timeout < timeout) {
		timeout = request.Timeout
	}
	e.requests = append(e.requests, C.blazego_request{
		model: C.uint64_t(model), user_data: C.uint64_t(userData), timeout_ns: C.uint64_t(timeout),
		session_id: C.uint64_t(request.Session), tenant_id: C.uint64_t(request.Tenant),
		route_key: C.uint64_t(request.RouteKey), priority: C.int32_t(request.Priority),
		inputs_count: C.uint32_t(len(request.Inputs)),
	})
	tensors := len(e.tensors)
	for _, input := range request.Inputs {
		if err := e.addInput(input); err != nil {
			e.requests = e.requests[:len(e.requests)-1]
			e.tensors = e.tensors[:tensors]
			return err
		}
	}
	return nil
}

func (e *encoder) addInput(input Value) error {
	if input == nil {
		return &Error{Status: ErrNullPointer, Message: "an input is nil"}
	}
	v := input.view()
	if len(v.shape) > C.BLAZE_MAX_RANK {
		return &Error{Status: ErrInvalidShape, Message: "an input has too many axes"}
	}
	tensor := C.blazego_tensor{dtype: C.uint32_t(v.dtype), rank: C.uint16_t(len(v.shape))}
	at, bytes := e.room(8 * len(v.shape))
	if len(v.shape) > 0 {
		copy(unsafe.Slice((*int64)(unsafe.Pointer(&bytes[0])), len(v.shape)), v.shape)
	}
	tensor.shape_at = C.uint32_t(at)
	if v.name != "" {
		at, bytes := e.room(len(v.name) + 1)
		copy(bytes, v.name)
		bytes[len(v.name)] = 0
		tensor.name_at = C.uint32_t(at)
	}
	switch {
	case v.dtype == String:
		tensor.data = C.uint64_t(e.addStrings(v.strings))
		tensor.size_bytes = C.uint64_t(len(v.strings) * C.sizeof_blaze_string)
	case len(v.data) >= pinFrom:
		e.pinner.Pin(unsafe.SliceData(v.data))
		e.pinned = true
		tensor.pinned = 1
		tensor.data = C.uint64_t(uintptr(unsafe.Pointer(unsafe.SliceData(v.data))))
		tensor.size_bytes = C.uint64_t(len(v.data))
	default:
		at, bytes := e.room(len(v.data))
		copy(bytes, v.data)
		tensor.data, tensor.size_bytes = C.uint64_t(at), C.uint64_t(len(v.data))
	}
	e.tensors = append(e.tensors, tensor)
	// Offsets of shapes and names have 32 bits.
	if len(e.payload) > 1<<28 {
		return &Error{Status: ErrInvalidSize, Message: "the strings of one call take more than 2 GiB"}
	}
	return nil
}

// addStrings adds pairs of an offset and a size, and the texts behind them.
func (e *encoder) addStrings(texts []string) int {
	size := 0
	for _, text := range texts {
		size += len(text)
	}
	pairs := 16 * len(texts)
	at, bytes := e.room(pairs + size)
	if len(texts) == 0 {
		return at
	}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&bytes[0])), 2*len(texts))
	next := pairs
	for i, text := range texts {
		words[2*i], words[2*i+1] = uint64(at+next), uint64(len(text))
		next += copy(bytes[next:], text)
	}
	return at
}

// pointers returns what the shim takes. A pointer to nothing is to something all the same.
func (e *encoder) pointers() (*C.blazego_request, *C.blazego_tensor, *C.uint8_t) {
	if cap(e.tensors) == 0 {
		e.tensors = make([]C.blazego_tensor, 0, 1)
	}
	return unsafe.SliceData(e.requests), unsafe.SliceData(e.tensors), (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(e.payload)))
}

// messagesFor is for how many refused requests of one call there are messages; the others have a status only.
const messagesFor = 16

// submit hands all requests in, in one call. What came of each is in e.requests, and its message is returned by refusal.
func (e *encoder) submit(engine *C.blaze_engine, queue *C.blaze_queue) {
	count := min(len(e.requests), messagesFor)
	if cap(e.messages) < count*C.BLAZEGO_MESSAGE {
		e.messages = make([]byte, count*C.BLAZEGO_MESSAGE)
	}
	e.messages = e.messages[:count*C.BLAZEGO_MESSAGE]
	requests, tensors, payload := e.pointers()
	C.blazego_submit(engine, queue, requests, C.uint32_t(len(e.requests)), tensors, payload,
		(*C.char)(unsafe.Pointer(unsafe.SliceData(e.messages))), C.uint32_t(count))
}

// refusal returns why a request was refused; the `number`th one that was.
func (e *encoder) refusal(index, number int) *Error {
	request := &e.requests[index]
	err := &Error{Status: Status(request.status), RetryAfter: time.Duration(request.retry_after_ns)}
	if size := int(request.message_bytes); size > 0 && number < messagesFor {
		err.Message = string(e.messages[number*C.BLAZEGO_MESSAGE:][:size])
	}
	return err
}

// timeLeft returns the time until a context's deadline; 0: it has none. The context has not ended, or it is an error.
func timeLeft(ctx context.Context) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	deadline, limited := ctx.Deadline()
	if !limited {
		return 0, nil
	}
	return max(time.Until(deadline), 1), nil
}
