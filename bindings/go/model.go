package blaze

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"
)

// Model is a loaded model, or one that is found by a name in the repository. It may be copied, and used from any
// goroutine.
type Model struct{ *endpoint }

// Progress is told how far a load has come, from 0 to 1, and what it does: "waiting" (for its turn and for room),
// "reading", "checking", "warming up", "loaded". It is called by the goroutine that takes all of the engine's events, so it
// must be quick, and must not wait for a request.
type Progress func(stage string, part float64)

// LoadModel loads a model, checks whether its requests may be joined, and warms it up. The keys of its configuration are
// those of blaze_model_load. When ctx ends, the load is given up. A model that is loaded already with the same configuration
// is loaded once.
func (e *Engine) LoadModel(ctx context.Context, config any) (*Model, error) {
	return e.LoadModelProgress(ctx, config, nil)
}

// LoadModelProgress is [Engine.LoadModel] that tells how far it has come, if the configuration has "progress": true.
func (e *Engine) LoadModelProgress(ctx context.Context, config any, progress Progress) (*Model, error) {
	text, err := configuration(config)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	future, err := e.job(ctx, progress, func(userData C.uint64_t, ticket *C.blaze_ticket, failure *C.blaze_error) C.blaze_status {
		return C.blaze_model_load_async(e.handle, text, e.queue.handle, userData, ticket, failure)
	})
	if err != nil {
		return nil, err
	}
	return &Model{newEndpoint(e, future.response.Model)}, nil
}

// LoadModelBytes loads a model from memory; otherwise as [Engine.LoadModel]. The configuration has no "path". The load
// cannot be given up.
func (e *Engine) LoadModelBytes(ctx context.Context, config any, data []byte) (*Model, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	var id C.blaze_model
	err := e.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_model_load_memory(e.handle, text, unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data)), &id, failure)
	})
	if err != nil {
		return nil, err
	}
	return &Model{newEndpoint(e, uint64(id))}, nil
}

// Model finds a loaded model, or a route, by "name" (the newest version) or "name:version". For a model of the repository,
// "name" always means the newest version that works.
func (e *Engine) Model(name string) (*Model, error) {
	var id C.blaze_model
	err := e.configure(name, func(text *C.char, _ *C.blaze_error) C.blaze_status {
		return C.blaze_model_find(e.handle, text, &id)
	})
	if err != nil {
		if StatusOf(err) == ErrNotFound {
			err = &Error{Status: ErrNotFound, Message: "there is no model " + name}
		}
		return nil, err
	}
	return &Model{newEndpoint(e, uint64(id))}, nil
}

// Receipt says what unloading a model has freed.
type Receipt struct {
	Model       string `json:"model"`
	BytesBefore uint64 `json:"bytes_before"`
	BytesAfter  uint64 `json:"bytes_after"`
	FreedBytes  uint64 `json:"freed_bytes"`
	// Stayed says why not all of it is free yet.
	Stayed []struct {
		What  string `json:"what"`
		Bytes uint64 `json:"bytes"`
	} `json:"stayed"`
	// ProcessBytesBefore and ProcessBytesAfter are the memory of the whole process, where that is known.
	ProcessBytesBefore *uint64 `json:"process_bytes_before"`
	ProcessBytesAfter  *uint64 `json:"process_bytes_after"`
}

// Unload takes the model out: its handle is stale at once, and requests that it has end as usual. It returns when all is
// freed, with a receipt for each version. When ctx ends, it returns, and the unload goes on.
func (m *Model) Unload(ctx context.Context) ([]Receipt, error) {
	e := m.engine
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	if !e.gate.enter() {
		return nil, errClosed()
	}
	// The event bears no number of ours. So it gets a queue of its own, which is cheap.
	type outcome struct {
		text string
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		defer e.gate.leave()
		text, err := e.unload(m.id)
		done <- outcome{text, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			return nil, got.err
		}
		return receipts(got.text)
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// unload blocks until the model is unloaded. The caller is inside the gate.
func (e *Engine) unload(model uint64) (string, error) {
	var queue *C.blaze_queue
	var failure C.blaze_error
	if err := fail(C.blaze_queue_create(e.handle, 1, &queue, &failure), &failure); err != nil {
		return "", err
	}
	var ticket C.blaze_ticket
	if err := fail(C.blaze_model_unload(e.handle, C.blaze_model(model), queue, &ticket), nil); err != nil {
		C.blaze_queue_destroy(queue)
		return "", err
	}
	var event C.blaze_event
	for C.blaze_wait(queue, &event, C.sizeof_blaze_event, 1, C.UINT64_MAX) == 0 {
		// An engine that is shut down resolves its tickets, so this comes to an end.
		time.Sleep(time.Millisecond)
	}
	text := ""
	if event.text != nil {
		text = C.GoStringN(event.text, C.int(event.text_bytes))
	}
	status := event.status
	C.blaze_event_release(&event)
	C.blaze_queue_destroy(queue)
	if status != 0 {
		return "", &Error{Status: Status(status), Message: text}
	}
	return text, nil
}

func receipts(text string) ([]Receipt, error) {
	var several struct {
		Models []Receipt `json:"models"`
	}
	if err := json.Unmarshal([]byte(text), &several); err != nil {
		return nil, &Error{Status: ErrInternal, Message: err.Error(), cause: err}
	}
	if several.Models != nil {
		return several.Models, nil
	}
	var one Receipt
	if err := json.Unmarshal([]byte(text), &one); err != nil {
		return nil, &Error{Status: ErrInternal, Message: err.Error(), cause: err}
	}
	return []Receipt{one}, nil
}

// Configure changes the model's settings while it works: "batching", "lanes", "intra_op_threads", as when it is loaded.
func (m *Model) Configure(config any) error {
	return m.engine.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_model_configure(m.engine.handle, C.blaze_model(m.id), text, failure)
	})
}

// RescanRepository reads the engine's repository again, loads what is new and unloads what is gone. It returns the report
// that [Engine.HealthJSON] has in "repository".
func (e *Engine) RescanRepository(ctx context.Context) (json.RawMessage, error) {
	future, err := e.job(ctx, nil, func(userData C.uint64_t, ticket *C.blaze_ticket, failure *C.blaze_error) C.blaze_status {
		return C.blaze_repository_rescan(e.handle, e.queue.handle, userData, ticket, failure)
	})
	if err != nil {
		return nil, err
	}
	return json.RawMessage(future.text), nil
}

// endpoint is what requests are sent to: a model or a route.
type endpoint struct {
	engine *Engine
	id     uint64
	// What responses took the last time, so that the next one takes one allocation.
	bytes   atomic.Int64
	outputs atomic.Pointer[[]string]
}

func newEndpoint(e *Engine, id uint64) *endpoint {
	p := &endpoint{engine: e, id: id}
	p.bytes.Store(256)
	return p
}

// ID returns the library's handle, which is never used again for another model or route.
func (p *endpoint) ID() uint64 { return p.id }

// Info returns what blaze_model_info says, a JSON object: inputs, outputs, batching, lanes, bytes; of a route its targets.
func (p *endpoint) Info() (json.RawMessage, error) {
	return p.engine.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, _ *C.blaze_error) C.blaze_status {
		return C.blaze_model_info(p.engine.handle, C.blaze_model(p.id), buffer, capacity, needed)
	})
}

// Infer sends a request and waits for its end.
func (p *endpoint) Infer(ctx context.Context, inputs ...Value) (*Response, error) {
	request := Request{Inputs: inputs}
	return p.InferRequest(ctx, &request)
}

// InferRequest is [Model.Infer] for a request with more to say about it.
//
// With a context that can never end, such as [context.Background], the model runs on the calling thread if it is idle;
// up to GOMAXPROCS such calls do so at once. Others are handed to the engine's threads, and hold no thread while they wait.
func (p *endpoint) InferRequest(ctx context.Context, request *Request) (*Response, error) {
	e := p.engine
	if ctx.Done() == nil || e.manual {
		if e.direct.Add(1) <= e.limit || e.manual {
			defer e.direct.Add(-1)
			return p.inferHere(ctx, request)
		}
		e.direct.Add(-1)
	}
	futures, err := p.submit(ctx, []Request{*request}, false)
	if err != nil {
		return nil, err
	}
	future := &futures[0]
	select {
	case <-future.Done():
	case <-ctx.Done():
		future.Cancel()
		<-future.Done()
	}
	return future.result()
}

// Submit hands a request in, and waits for nothing. Inputs are copied. When ctx ends, the request is cancelled.
func (p *endpoint) Submit(ctx context.Context, inputs ...Value) (*Future, error) {
	return p.SubmitRequest(ctx, &Request{Inputs: inputs})
}

// SubmitRequest is [Model.Submit] for a request with more to say about it.
func (p *endpoint) SubmitRequest(ctx context.Context, request *Request) (*Future, error) {
	futures, err := p.submit(ctx, []Request{*request}, true)
	if err != nil {
		return nil, err
	}
	return &futures[0], nil
}

// SubmitAll hands many requests in, with one call of C for all. Each has a future of its own, in the same order; one that
// was refused has ended already, with the reason. When ctx ends, those that are left are cancelled. The error is of the
// call: the context has ended, or the engine is closed, and nothing was handed in.
func (p *endpoint) SubmitAll(ctx context.Context, requests []Request) ([]*Future, error) {
	futures, err := p.submit(ctx, requests, true)
	if err != nil && futures == nil {
		return nil, err
	}
	each := make([]*Future, len(futures))
	for i := range futures {
		each[i] = &futures[i]
	}
	return each, nil
}

// submit hands requests in. For a single one that is refused it returns the reason; futures of several have their own.
// Unless watch is set, the caller cancels them when the context ends.
func (p *endpoint) submit(ctx context.Context, requests []Request, watch bool) ([]Future, error) {
	e := p.engine
	timeout, err := timeLeft(ctx)
	if err != nil {
		return nil, err
	}
	if !e.gate.enter() {
		return nil, errClosed()
	}
	defer e.gate.leave()
	futures := make([]Future, len(requests))
	if len(requests) == 0 {
		return futures, nil
	}
	for i := range futures {
		futures[i].engine, futures[i].ctx = e, ctx
	}
	if watch && ctx.Done() != nil {
		shared := &group{}
		shared.left.Store(int64(len(futures)))
		started := make(chan struct{})
		shared.stop = context.AfterFunc(ctx, func() {
			<-started
			cancelAll(e, futures)
		})
		defer close(started)
		for i := range futures {
			futures[i].group = shared
		}
	}
	encoder := newEncoder()
	defer encoder.free()
	encoder.numbers = slices.Grow(encoder.numbers[:0], len(requests))[:len(requests)]
	numbers, places := encoder.numbers, encoder.places[:0]
	e.queue.waiting.add(futures, numbers)
	var refused error
	for i := range requests {
		if err := encoder.add(&requests[i], p.id, numbers[i], timeout); err != nil {
			e.queue.waiting.remove(numbers[i])
			futures[i].end(err.(*Error))
			refused = err
			continue
		}
		places = append(places, i)
	}
	encoder.places = places
	if len(places) > 0 {
		encoder.submit(e.handle, e.queue.handle)
	}
	number := 0
	for k, i := range places {
		result := &encoder.requests[k]
		if result.status == 0 {
			futures[i].ticket.Store(uint64(result.ticket))
			continue
		}
		err := encoder.refusal(k, number)
		number++
		e.queue.waiting.remove(numbers[i])
		futures[i].end(err)
		refused = err
	}
	if len(requests) == 1 && refused != nil {
		return nil, refused
	}
	return futures, nil
}

func cancelAll(e *Engine, futures []Future) {
	tickets := make([]uint64, 0, len(futures))
	for i := range futures {
		if ticket := futures[i].ticket.Load(); ticket != 0 && !futures[i].hasEnded() {
			tickets = append(tickets, ticket)
		}
	}
	e.cancel(tickets)
}

// inferHere calls blaze_infer. The outputs are packed into one piece of memory that becomes the response's.
func (p *endpoint) inferHere(ctx context.Context, request *Request) (*Response, error) {
	e := p.engine
	timeout, err := timeLeft(ctx)
	if err != nil {
		return nil, err
	}
	if !e.gate.enter() {
		return nil, errClosed()
	}
	defer e.gate.leave()
	encoder := newEncoder()
	defer encoder.free()
	if err := encoder.add(request, p.id, 0, timeout); err != nil {
		return nil, err
	}
	result, outputs := encoder.result, encoder.outputs
	buffer := make([]uint64, p.bytes.Load()/8)
	requests, tensors, payload := encoder.pointers()
	C.blazego_infer(e.handle, requests, tensors, payload, result, &outputs[0], C.uint32_t(len(outputs)),
		(*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(buffer))), C.uint64_t(8*len(buffer)))
	if result.status != 0 {
		return nil, because(ctx, fail(result.status, &result.error).(*Error))
	}
	if result.needed_bytes > 0 || result.needed_outputs > 0 {
		p.bytes.Store(int64(result.needed_bytes))
		buffer = make([]uint64, max(result.needed_bytes/8, 1))
		outputs = make([]C.blazego_output, max(result.needed_outputs, 1))
		C.blazego_fetch(result, &outputs[0], C.uint32_t(len(outputs)),
			(*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(buffer))), C.uint64_t(8*len(buffer)))
	}
	return p.unpack(result, outputs, buffer), nil
}

func (p *endpoint) unpack(result *C.blazego_result, outputs []C.blazego_output, buffer []uint64) *Response {
	one := &struct {
		Response
		first [1]Raw
	}{}
	response := &one.Response
	response.Model = uint64(result.event.model)
	response.Timing = timing(&result.event.timing)
	count := int(result.outputs_count)
	if response.Outputs = one.first[:min(count, 1)]; count > 1 {
		response.Outputs = make([]Raw, count)
	}
	whole := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(buffer))), 8*len(buffer))
	for i := range response.Outputs {
		to, from := &response.Outputs[i], &outputs[i]
		to.Name = p.outputName(i, count, whole[from.name:][:from.name_bytes])
		to.DType = DType(from.dtype)
		if rank := int(from.rank); rank > 0 {
			to.Shape = unsafe.Slice((*int64)(unsafe.Pointer(&whole[from.shape])), rank)
		}
		size := int(from.size_bytes)
		switch {
		case size == 0:
		case to.DType == String:
			pairs := buffer[from.data/8:][:2*(size/C.sizeof_blaze_string)]
			to.Strings = make([]string, len(pairs)/2)
			for k := range to.Strings {
				to.Strings[k] = string(whole[pairs[2*k]:][:pairs[2*k+1]])
			}
		default:
			to.Data = whole[from.data:][:size:size]
		}
	}
	return response
}

// outputName returns the name of an output without copying it again if it is the same as the last time.
func (p *endpoint) outputName(index, count int, name []byte) string {
	names := p.outputs.Load()
	if names != nil && index < len(*names) && bytes.Equal([]byte((*names)[index]), name) {
		return (*names)[index]
	}
	changed := make([]string, count)
	if names != nil {
		copy(changed, slices.Clone(*names))
	}
	changed[index] = string(name)
	p.outputs.Store(&changed)
	return changed[index]
}
