package blaze

// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Timing says where a request's time went.
type Timing struct {
	// Queued is from submit until a lane took the request.
	Queued time.Duration
	// Batched is from there until the run started.
	Batched time.Duration
	// Computed is inside the backend.
	Computed time.Duration
	// BatchRows is how many rows the batch had, the request's own among them.
	BatchRows int
}

// Response is what a request came to. It is ordinary memory, which the garbage collector takes.
type Response struct {
	// Outputs are the model's, in its order.
	Outputs []Raw
	// Model is the handle of the model that answered, which for a route is one of its targets; see [Model.ID].
	Model uint64
	// Timing says where the time went.
	Timing Timing
}

// Output returns an output by position, or nil.
func (r *Response) Output(index int) *Raw {
	if index < 0 || index >= len(r.Outputs) {
		return nil
	}
	return &r.Outputs[index]
}

// Named returns an output by name, or nil.
func (r *Response) Named(name string) *Raw {
	for i := range r.Outputs {
		if r.Outputs[i].Name == name {
			return &r.Outputs[i]
		}
	}
	return nil
}

// Future is a request that was handed in. All of its methods may be called from any goroutine, also several times.
type Future struct {
	mu       sync.Mutex
	ended    bool
	done     chan struct{} // made when somebody asks
	err      error
	response Response
	first    [1]Raw // the room of response.Outputs, for most models

	engine *Engine
	ctx    context.Context
	group  *group // nil if the context never ends
	ticket atomic.Uint64

	// Of loads, unloads and other jobs.
	text     string
	progress func(stage string, part float64)
}

// group is requests of one call, which their context cancels together.
type group struct {
	left atomic.Int64
	stop func() bool
}

var closedChannel = func() chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

// Done returns a channel that is closed when the request has ended.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil {
		if f.ended {
			return closedChannel
		}
		f.done = make(chan struct{})
	}
	return f.done
}

// Result waits for the request's end.
func (f *Future) Result() (*Response, error) {
	if !f.hasEnded() {
		<-f.Done()
	}
	return f.result()
}

// Wait waits for the request's end, or the context's, which ends the wait but not the request.
func (f *Future) Wait(ctx context.Context) (*Response, error) {
	if !f.hasEnded() {
		select {
		case <-f.Done():
		case <-ctx.Done():
			return nil, ended(ctx)
		}
	}
	return f.result()
}

// Cancel asks for the request to be given up. It ends as [ErrCancelled], unless it has ended already.
func (f *Future) Cancel() {
	if ticket := f.ticket.Load(); ticket != 0 && !f.hasEnded() {
		f.engine.cancel([]uint64{ticket})
	}
}

func (f *Future) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// result is of a future that has ended.
func (f *Future) result() (*Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	return &f.response, nil
}

// end resolves the future, once. The response has been filled, unless there is an error.
func (f *Future) end(err *Error) {
	f.mu.Lock()
	f.ended = true
	if err != nil {
		f.err = because(f.ctx, err)
	}
	if f.done != nil {
		close(f.done)
	}
	f.mu.Unlock()
	if f.group != nil && f.group.left.Add(-1) == 0 {
		f.group.stop()
	}
}

// futures knows the requests in flight by the numbers that C returns for them.
type futures struct {
	mu    sync.Mutex
	slots []*Future
	free  []uint32
	count int
}

// add gives each of the futures a number, which is never 0.
func (t *futures) add(each []Future, numbers []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range each {
		if last := len(t.free) - 1; last >= 0 {
			slot := t.free[last]
			t.free = t.free[:last]
			t.slots[slot] = &each[i]
			numbers[i] = uint64(slot) + 1
		} else {
			t.slots = append(t.slots, &each[i])
			numbers[i] = uint64(len(t.slots))
		}
	}
	t.count += len(each)
}

// get returns the future of a number, and forgets it if this was the last event.
func (t *futures) get(number uint64, last bool) *Future {
	if number == 0 || number > uint64(len(t.slots)) {
		return nil
	}
	future := t.slots[number-1]
	if last && future != nil {
		t.slots[number-1] = nil
		t.free = append(t.free, uint32(number-1))
		t.count--
	}
	return future
}

// remove forgets a request that was refused.
func (t *futures) remove(number uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.get(number, true)
}

func timing(from *C.blaze_timing) Timing {
	return Timing{
		Queued: time.Duration(from.queued_ns), Batched: time.Duration(from.batched_ns),
		Computed: time.Duration(from.computed_ns), BatchRows: int(from.batch_rows),
	}
}
