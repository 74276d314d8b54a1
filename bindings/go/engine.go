package blaze

// #include <stdlib.h>
// #include "shim.h"
// #cgo noescape blazego_submit
// #cgo nocallback blazego_submit
// #cgo noescape blazego_infer
// #cgo nocallback blazego_infer
// #cgo noescape blazego_fetch
// #cgo nocallback blazego_fetch
// #cgo noescape blazego_cancel
// #cgo nocallback blazego_cancel
// #cgo noescape blazego_wait
// #cgo nocallback blazego_wait
import "C"

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Version returns the version of the loaded library, such as "0.1.0".
func Version() string { return C.GoString(C.blaze_version()) }

// Engine holds models, queues, threads and memory. Make it with [New] and end it with [Engine.Close]. An engine that is
// forgotten is closed by the garbage collector some time later, which is a safety net and no more.
type Engine struct{ *core }

var _ io.Closer = (*Engine)(nil)

// core is what the goroutines of an engine hold, so that the engine itself can be found unreachable.
type core struct {
	handle  *C.blaze_engine
	queue   *queue
	taking  sync.Mutex    // of who takes events, on an engine without threads
	manual  bool          // the engine has no threads
	stopped chan struct{} // closed when the queue's goroutine has ended
	gate    gate
	closing sync.Once
	jobs    sync.Mutex // of unloads, whose events bear only a ticket
	direct  atomic.Int32
	limit   int32 // of calls that run on their own threads at once
	logs    struct {
		sync.Mutex
		*logger
	}
}

// gate counts the calls that are inside, and lets no more in once it is closed.
type gate struct {
	state atomic.Int64
	once  sync.Once
	idle  chan struct{}
}

const gateClosed = 1 << 62

func (g *gate) enter() bool {
	if g.state.Add(1)&gateClosed == 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateClosed {
		g.once.Do(func() { close(g.idle) })
	}
}

// close lets no more calls in, and waits for those that are inside.
func (g *gate) close() {
	if g.state.Or(gateClosed) == 0 {
		g.once.Do(func() { close(g.idle) })
	}
	<-g.idle
}

type options struct {
	capacity uint32
	logger   *slog.Logger
}

// Option is a choice for [New] that the engine's configuration does not have.
type Option func(*options)

// WithQueueCapacity limits the requests that are with the engine through this package at once; 65536 without it. More
// are refused with [ErrQueueFull]. The engine's own limit is "queue.capacity".
func WithQueueCapacity(capacity int) Option {
	return func(o *options) { o.capacity = uint32(min(max(capacity, 1), 1<<24)) }
}

// WithLogger has lines of the engine's log go to logger, from the first one on: see [Engine.SetLogger]. Lines that are said
// while [New] loads models come when it has; if it fails, its error says why.
func WithLogger(logger *slog.Logger) Option { return func(o *options) { o.logger = logger } }

// New makes an engine, and loads the models that its configuration names. The keys are those of blaze_engine_create; nil
// is all defaults.
func New(config any, choices ...Option) (*Engine, error) {
	chosen := options{capacity: 65536}
	for _, choose := range choices {
		choose(&chosen)
	}
	if have, want := uint32(C.blaze_abi_version()), uint32(C.BLAZE_ABI_VERSION); have>>16 != want>>16 || have < want {
		return nil, &Error{Status: ErrUnsupported, Message: fmt.Sprintf("the library has the interface %d.%d, and %d.%d is needed",
			have>>16, have&0xFFFF, want>>16, want&0xFFFF)}
	}
	text, err := configuration(config)
	if err == nil && chosen.logger != nil {
		text, err = withLog(text, chosen.logger)
	}
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	c := &core{stopped: make(chan struct{}), limit: int32(runtime.GOMAXPROCS(0))}
	c.gate.idle = make(chan struct{})
	var failure C.blaze_error
	if err := fail(C.blaze_engine_create(text, &c.handle, &failure), &failure); err != nil {
		return nil, err
	}
	if c.queue, err = newQueue(c.handle, chosen.capacity); err != nil {
		C.blaze_engine_destroy(c.handle)
		return nil, err
	}
	// There is nothing to do yet; the question is whether it may be asked.
	c.manual = C.blaze_pump(c.handle, 0, nil) == 0
	if c.manual {
		close(c.stopped)
	} else {
		go c.serve()
	}
	engine := &Engine{c}
	runtime.AddCleanup(engine, func(c *core) { go c.close() }, c)
	if chosen.logger != nil {
		if err := engine.SetLogger(chosen.logger); err != nil {
			engine.Close()
			return nil, err
		}
	}
	return engine, nil
}

// configuration makes a C string of a configuration; NULL of nil. The caller frees it.
func configuration(config any) (*C.char, error) {
	var text []byte
	switch config := config.(type) {
	case nil:
		return nil, nil
	case string:
		text = []byte(config)
	case []byte:
		text = config
	case json.RawMessage:
		text = config
	default:
		var err error
		if text, err = json.Marshal(config); err != nil {
			return nil, &Error{Status: ErrInvalidConfig, Message: err.Error(), cause: err}
		}
	}
	for _, b := range text {
		if b == 0 {
			return nil, &Error{Status: ErrInvalidConfig, Message: "the text has a NUL in it"}
		}
	}
	return C.CString(string(text)), nil
}

// serve takes events until there are none though it need not wait: the engine is shut down, and all are taken.
func (c *core) serve() {
	defer close(c.stopped)
	for c.queue.take(-1) > 0 {
	}
}

// Shutdown stops taking work in, and waits for the work that there is until ctx ends; what is left then ends as
// [ErrShutDown]. Health and metrics can still be asked for. Call [Engine.Close] after it. The error is the context's, if
// it ended before all work had.
func (e *Engine) Shutdown(ctx context.Context) error {
	if !e.gate.enter() {
		return nil
	}
	defer e.gate.leave()
	limit := C.uint64_t(math.MaxUint64)
	if left, err := timeLeft(ctx); err != nil {
		limit = 0
	} else if left > 0 {
		limit = C.uint64_t(left)
	}
	// The call below waits inside C; a context that is cancelled meanwhile has another call end the rest at once.
	stop := context.AfterFunc(ctx, func() {
		if e.gate.enter() {
			C.blaze_engine_shutdown(e.handle, 0)
			e.gate.leave()
		}
	})
	defer stop()
	C.blaze_engine_shutdown(e.handle, limit)
	e.drain()
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return nil
}

// Close shuts the engine down at once, waits for calls that are inside it, and frees everything. Requests in flight end
// as [ErrShutDown]; use [Engine.Shutdown] first to have them end well. It may be called at any time, from several
// goroutines and again; but not by the handler of [Engine.SetLogger].
func (e *Engine) Close() error {
	e.close()
	return nil
}

func (c *core) close() {
	c.closing.Do(func() {
		// Calls that wait inside C return because of this.
		C.blaze_engine_shutdown(c.handle, 0)
		c.gate.close()
		c.drain()
		// Nothing can be submitted any more, and every event has its place in the queue: when it is empty, that is all.
		C.blaze_queue_wake(c.queue.handle)
		<-c.stopped
		C.blaze_engine_destroy(c.handle)
		c.queue.free()
		c.logs.end()
	})
}

// drain takes what is left in the queue of an engine without threads, which nobody else does.
func (c *core) drain() {
	if c.manual {
		c.taking.Lock()
		defer c.taking.Unlock()
		for c.queue.take(0) > 0 {
		}
	}
}

// Pump works on the calling thread, for an engine made with "threads": 0: it starts no further piece of work once the
// budget has passed. It resolves the futures of what has ended, and returns the pieces of work done. It is [ErrInvalidState]
// for an engine that has threads.
func (e *Engine) Pump(budget time.Duration) (int, error) {
	if !e.gate.enter() {
		return 0, errClosed()
	}
	defer e.gate.leave()
	var did C.uint32_t
	if status := C.blaze_pump(e.handle, C.uint64_t(max(budget, 0)), &did); status != 0 {
		return 0, &Error{Status: Status(status), Message: "the engine has threads of its own"}
	}
	e.drain()
	return int(did), nil
}

// await waits for a future's end. On an engine without threads it works meanwhile.
func (e *Engine) await(future *Future) {
	for e.manual && !future.hasEnded() {
		did, err := e.Pump(time.Millisecond)
		if err != nil {
			break
		}
		if did == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	<-future.Done()
}

func (e *Engine) cancel(tickets []uint64) {
	if len(tickets) > 0 && e.gate.enter() {
		C.blazego_cancel(e.handle, (*C.uint64_t)(unsafe.Pointer(&tickets[0])), C.uint32_t(len(tickets)))
		e.gate.leave()
	}
}

// job starts a piece of work other than a request, waits for its end, and returns its future, which has ended well.
func (e *Engine) job(ctx context.Context, progress func(string, float64),
	start func(userData C.uint64_t, ticket *C.blaze_ticket, failure *C.blaze_error) C.blaze_status) (*Future, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	if !e.gate.enter() {
		return nil, errClosed()
	}
	futures, numbers := make([]Future, 1), make([]uint64, 1)
	future := &futures[0]
	future.engine, future.ctx, future.progress = e, ctx, progress
	e.queue.waiting.add(futures, numbers)
	var ticket C.blaze_ticket
	var failure C.blaze_error
	status := start(C.uint64_t(numbers[0]), &ticket, &failure)
	e.gate.leave()
	if status != 0 {
		e.queue.waiting.remove(numbers[0])
		return nil, fail(status, &failure)
	}
	future.ticket.Store(uint64(ticket))
	stop := context.AfterFunc(ctx, future.Cancel)
	defer stop()
	e.await(future)
	if _, err := future.result(); err != nil {
		return nil, err
	}
	return future, nil
}

// SetBudget changes "memory.budget_bytes", the most bytes that models and buffers may take. Nothing to set it to is
// [BudgetUnlimited].
func (e *Engine) SetBudget(bytes uint64) error {
	return e.call(func(*C.blaze_error) C.blaze_status { return C.blaze_engine_set_budget(e.handle, C.uint64_t(bytes)) })
}

// BudgetUnlimited is no limit, for [Engine.SetBudget].
const BudgetUnlimited uint64 = math.MaxUint64

// Trim gives memory back that is kept for later. The engine does so by itself after "memory.idle_ms" without work.
func (e *Engine) Trim() error {
	return e.call(func(*C.blaze_error) C.blaze_status { return C.blaze_engine_trim(e.handle) })
}

// call makes a call of C that returns a status.
func (e *Engine) call(what func(*C.blaze_error) C.blaze_status) error {
	if !e.gate.enter() {
		return errClosed()
	}
	defer e.gate.leave()
	var failure C.blaze_error
	return fail(what(&failure), &failure)
}

// configure makes a call of C with a configuration.
func (e *Engine) configure(config any, what func(*C.char, *C.blaze_error) C.blaze_status) error {
	text, err := configuration(config)
	if err != nil {
		return err
	}
	defer C.free(unsafe.Pointer(text))
	return e.call(func(failure *C.blaze_error) C.blaze_status { return what(text, failure) })
}

// text makes calls of C that write text until there is room for it.
func (e *Engine) text(what func(*C.char, C.size_t, *C.size_t, *C.blaze_error) C.blaze_status) ([]byte, error) {
	if !e.gate.enter() {
		return nil, errClosed()
	}
	defer e.gate.leave()
	var failure C.blaze_error
	buffer := make([]byte, 4096)
	for {
		var needed C.size_t
		status := what((*C.char)(unsafe.Pointer(&buffer[0])), C.size_t(len(buffer)), &needed, &failure)
		if status == 0 {
			return buffer[:needed-1], nil
		}
		if Status(status) != ErrBufferTooSmall {
			return nil, fail(status, &failure)
		}
		// The text may grow between two calls.
		buffer = make([]byte, int(needed)+int(needed)/8)
	}
}
