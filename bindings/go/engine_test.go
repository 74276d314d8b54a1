package blaze

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestConfigurationsOfEveryKind(t *testing.T) {
	for _, config := range []any{nil, `{"threads": 1}`, []byte(`{"threads": 1}`), json.RawMessage(`{}`), object{"threads": 2},
		struct {
			Threads int `json:"threads"`
		}{1}} {
		newEngine(t, config)
	}
	for _, config := range []any{`{"thread": 1}`, `{`, "{}\x00", make(chan int), object{"threads": "many"}} {
		_, err := New(config)
		if !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%v: %v", config, err)
		}
	}
	var failure *Error
	if _, err := New(`{"thread": 1}`); !errors.As(err, &failure) || !strings.Contains(failure.Message, "thread") {
		t.Error(err)
	}
	if Version() == "" {
		t.Error("the library has no version")
	}
}

func TestCloseMayBeCalledAtAnyTimeAndAgain(t *testing.T) {
	for range 5 {
		engine := newEngine(t, object{"models": []any{mock("m", slow(time.Millisecond))}})
		model, _ := engine.Model("m")
		var busy sync.WaitGroup
		var answered atomic.Int64
		for worker := range 8 {
			busy.Add(1)
			go func() {
				defer busy.Done()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if worker%2 == 0 {
					ctx = context.Background()
				}
				for {
					response, err := model.Infer(ctx, row(float32(worker)))
					if errors.Is(err, ErrShutDown) || errors.Is(err, ErrNotFound) {
						return
					}
					checkRow(t, response, err, float32(worker))
					answered.Add(1)
					if _, err := engine.Health(); err != nil && !errors.Is(err, ErrShutDown) {
						t.Error(err)
					}
				}
			}()
		}
		for answered.Load() < 50 {
			runtime.Gosched()
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Add(1)
			go func() {
				defer closers.Done()
				if err := engine.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
		closers.Wait()
		busy.Wait()
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
		if _, err := model.Infer(context.Background(), row(1)); !errors.Is(err, ErrShutDown) {
			t.Error(err)
		}
		if _, err := engine.Metrics(); !errors.Is(err, ErrShutDown) {
			t.Error(err)
		}
	}
}

func TestEveryRequestInFlightEndsWhenTheEngineIsClosed(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("slow", slow(10*time.Second))}})
	model, _ := engine.Model("slow")
	requests := make([]Request, 300)
	for i := range requests {
		requests[i].Inputs = []Value{row(1)}
	}
	futures, err := model.SubmitAll(context.Background(), requests)
	if err != nil {
		t.Fatal(err)
	}
	engine.Close()
	for _, future := range futures {
		if _, err := future.Result(); !errors.Is(err, ErrShutDown) {
			t.Fatal(err)
		}
	}
}

func TestShutdownLetsWorkEnd(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m", slow(20*time.Millisecond))}})
	model, _ := engine.Model("m")
	future, err := model.Submit(context.Background(), row(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	response, err := future.Result()
	checkRow(t, response, err, 1)
	if _, err := model.Submit(context.Background(), row(1)); !errors.Is(err, ErrShutDown) && !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if health, err := engine.Health(); err != nil || health.Accepting {
		t.Error(health, err)
	}
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("slow", slow(10*time.Second))}})
	model, _ := engine.Model("slow")
	future, err := model.Submit(context.Background(), row(1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := engine.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := future.Result(); !errors.Is(err, ErrShutDown) {
		t.Error(err)
	}
}

func TestAForgottenEngineIsClosed(t *testing.T) {
	stopped := func() chan struct{} {
		engine, err := New(object{"models": []any{mock("m")}})
		if err != nil {
			t.Fatal(err)
		}
		return engine.stopped
	}()
	for deadline := time.Now().Add(patience); ; {
		runtime.GC()
		select {
		case <-stopped:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the engine is still there")
		}
	}
}

func TestLoadsHaveProgressAndEndWithTheirContext(t *testing.T) {
	engine := newEngine(t, nil)
	var stages []string
	model, err := engine.LoadModelProgress(context.Background(), mock("m", object{"progress": true}),
		func(stage string, part float64) { stages = append(stages, stage) })
	if err != nil || model.ID() == 0 || len(stages) == 0 {
		t.Error(stages, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = engine.LoadModel(ctx, mock("late", object{"mock": object{"load_latency_us": 10_000_000}}))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
	if _, err := engine.LoadModel(context.Background(), object{"name": "x", "path": "no/such/file.onnx"}); !errors.Is(err, ErrModelNotFound) {
		t.Error(err)
	}
	if _, err := engine.Model("x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestAModelIsLoadedFromMemoryAndUnloadedWithAReceipt(t *testing.T) {
	engine := newEngine(t, nil)
	bytes, err := os.ReadFile(digitsModel)
	if err != nil {
		t.Fatal(err)
	}
	model, err := engine.LoadModelBytes(context.Background(), `{"name": "digits"}`, bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := model.Infer(context.Background(), NewTensor(make([]float32, 64), 1, 1, 8, 8)); err != nil {
		t.Error(err)
	}
	receipts, err := model.Unload(context.Background())
	if err != nil || len(receipts) != 1 || receipts[0].Model != "digits:1" || receipts[0].FreedBytes == 0 {
		t.Errorf("%+v %v", receipts, err)
	}
	if _, err := model.Unload(context.Background()); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := model.Infer(context.Background(), NewTensor(make([]float32, 64), 1, 1, 8, 8)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestRoutesAndTenants(t *testing.T) {
	failing := mock("a", object{"mock": object{"faults": []object{{"kind": "error"}}}})
	engine := newEngine(t, object{"models": []any{failing, mock("b")}})
	route, err := engine.CreateRoute(object{"name": "r", "targets": []object{{"model": "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := route.AddTarget(object{"model": "b"}); err != nil {
		t.Fatal(err)
	}
	b, _ := engine.Model("b")
	for i := range 20 {
		response, err := route.Infer(context.Background(), row(float32(i)))
		checkRow(t, response, err, float32(i))
		if response != nil && response.Model != b.ID() {
			t.Error("the failing model has answered")
		}
	}
	if err := errors.Join(route.DrainTarget("a", true), route.DrainTarget("a", false), route.RemoveTarget("a"),
		route.Update(object{"name": "r", "strategy": "power_of_two", "targets": []object{{"model": "b"}}})); err != nil {
		t.Error(err)
	}
	if err := engine.SetTenant(object{"id": 7, "limits": object{"requests_per_second": 0.001, "burst": 1}}); err != nil {
		t.Fatal(err)
	}
	request := &Request{Inputs: []Value{row(1)}, Tenant: 7, Priority: PriorityHigh, Session: 3, RouteKey: 4}
	response, err := route.InferRequest(context.Background(), request)
	checkRow(t, response, err, 1)
	_, err = route.InferRequest(context.Background(), request)
	var failure *Error
	if !errors.Is(err, ErrRateLimited) || !errors.As(err, &failure) || failure.RetryAfter <= 0 {
		t.Error(err)
	}
	if info, err := route.Info(); err != nil || !strings.Contains(string(info), "power_of_two") {
		t.Error(string(info), err)
	}
	if err := route.Destroy(); err != nil {
		t.Error(err)
	}
	if _, err := route.Infer(context.Background(), row(1)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestHealthMetricsAdviceAndReports(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m")}})
	model, _ := engine.Model("m")
	if err := engine.StartProfile(object{"level": "detailed"}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := model.Infer(context.Background(), row(1)); err != nil {
			t.Fatal(err)
		}
	}
	health, err := engine.Health()
	if err != nil || health.State != HealthOK || !health.Ready || !health.Live || health.ModelsReady != 1 || health.State.String() != "ok" {
		t.Errorf("%+v %v", health, err)
	}
	metrics, err := engine.Metrics()
	if err != nil || metrics.OK != 10 || metrics.Rows < 10 || metrics.Duration.P99 <= 0 {
		t.Errorf("%+v %v", metrics, err)
	}
	text, err := engine.MetricsText(MetricsPrometheus)
	if err != nil || !bytes.Contains(text, []byte("# TYPE blaze_")) || bytes.IndexByte(text, 0) >= 0 {
		t.Error(string(text), err)
	}
	if _, err := engine.MetricsText(99); !errors.Is(err, ErrInvalidArgument) {
		t.Error(err)
	}
	if _, err := engine.Advice(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(model.Configure(`{"batching": {"max_rows": 8}}`), engine.Trim(), engine.SetBudget(BudgetUnlimited)); err != nil {
		t.Error(err)
	}
	for name, get := range map[string]func() ([]byte, error){
		"health": func() ([]byte, error) { return engine.HealthJSON() },
		"tuning": func() ([]byte, error) { return engine.TuneReport() },
		"report": func() ([]byte, error) { return engine.ProfileReport(ReportJSON) },
		"trace":  func() ([]byte, error) { return engine.ProfileReport(ReportTrace) },
		"trends": func() ([]byte, error) { return engine.MetricsText(MetricsTrends) },
	} {
		if text, err := get(); err != nil || !json.Valid(text) {
			t.Errorf("%s: %s %v", name, text, err)
		}
	}
	if err := engine.StopProfile(); err != nil {
		t.Error(err)
	}
	if err := engine.StopProfile(); !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
	report, err := engine.Tune(context.Background(), object{"model": "m", "max_rows": []int{1, 8}, "max_delay_us": []int{0},
		"lanes": []int{1}, "seconds_per_point": 0.05, "in_flight": 4})
	if err != nil || !bytes.Contains(report, []byte(`"points"`)) {
		t.Error(string(report), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := engine.Tune(ctx, object{"model": "m", "seconds_per_point": 10}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := engine.RescanRepository(context.Background()); !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
}

func TestAnEngineWithoutThreadsIsPumped(t *testing.T) {
	engine := newEngine(t, object{"threads": 0})
	model := load(t, engine, mock("m"))
	futures, err := model.SubmitAll(context.Background(), []Request{{Inputs: []Value{row(1)}}, {Inputs: []Value{row(2)}}})
	if err != nil {
		t.Fatal(err)
	}
	if futures[0].hasEnded() {
		t.Error("it has ended by itself")
	}
	for !futures[0].hasEnded() || !futures[1].hasEnded() {
		if _, err := engine.Pump(time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	response, err := futures[1].Result()
	checkRow(t, response, err, 2)
	response, err = model.Infer(context.Background(), row(3))
	checkRow(t, response, err, 3)
	if _, err := newEngine(t, nil).Pump(0); !errors.Is(err, ErrInvalidState) {
		t.Error(err)
	}
}

// A handler that calls into the engine, which no callback of the library's may.
type curious struct {
	slog.Handler
	engine atomic.Pointer[Engine]
	seen   chan slog.Record
}

func (h *curious) Handle(_ context.Context, record slog.Record) error {
	if engine := h.engine.Load(); engine != nil {
		engine.Health()
	}
	h.seen <- record
	return nil
}

func TestWhatNewDoesIsLogged(t *testing.T) {
	models := []any{mock("first"), mock("second")}
	for _, config := range []any{object{"models": models}, object{"models": models, "log": object{"rate": object{"per_second": 0}}}} {
		handler := &curious{Handler: slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}), seen: make(chan slog.Record, 1000)}
		newEngine(t, config, WithLogger(slog.New(handler))).Close()
		close(handler.seen)
		about := map[string]bool{}
		for record := range handler.seen {
			record.Attrs(func(attribute slog.Attr) bool {
				about[attribute.Key+"="+attribute.Value.String()] = true
				return true
			})
		}
		if !about["model=first:1"] || !about["model=second:1"] {
			t.Error(about)
		}
	}
	for _, config := range []string{"", "[]", "{", `{"log": 1}`, `{"log": {"colour": 1}}`} {
		if _, err := New(config, WithLogger(slog.Default())); !errors.Is(err, ErrInvalidConfig) {
			t.Error(config, err)
		}
	}
	newEngine(t, `{"log": null}`, WithLogger(slog.New(slog.DiscardHandler))).Close()
}

func TestTheLogGoesToSlog(t *testing.T) {
	handler := &curious{Handler: slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}), seen: make(chan slog.Record, 1000)}
	engine := newEngine(t, nil, WithLogger(slog.New(handler)))
	handler.engine.Store(engine)
	load(t, engine, mock("m"))
	for deadline := time.After(patience); ; {
		select {
		case record := <-handler.seen:
			attributes := map[string]string{}
			record.Attrs(func(attribute slog.Attr) bool {
				attributes[attribute.Key] = attribute.Value.String()
				return true
			})
			if attributes["model"] == "m:1" && attributes["module"] == "model" && record.Message != "" {
				if age := time.Since(record.Time); age < 0 || age > patience {
					t.Error(record.Time)
				}
				if err := engine.SetLogger(nil); err != nil {
					t.Error(err)
				}
				return
			}
		case <-deadline:
			t.Fatal("nothing was logged about the model")
		}
	}
}
