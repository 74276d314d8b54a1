package blaze

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is long enough for a slow machine under the race detector. Only a failing test ever waits so long.
const patience = time.Minute

type object = map[string]any

// mock is the configuration of a model that returns 2 × its input, plus 1.
func mock(name string, changes ...object) object {
	config := object{"name": name, "backend": "mock", "mock": object{
		"inputs": []object{{"name": "x", "shape": []any{"rows", 4}}},
	}}
	for _, change := range changes {
		for key, value := range change {
			if into, ok := config[key].(object); ok {
				for inner, value := range value.(object) {
					into[inner] = value
				}
			} else {
				config[key] = value
			}
		}
	}
	return config
}

// slow has every run of a mock model take so long.
func slow(latency time.Duration) object {
	return object{"mock": object{"latency_us": latency.Microseconds()}}
}

func newEngine(t testing.TB, config any, options ...Option) *Engine {
	t.Helper()
	engine, err := New(config, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	return engine
}

func load(t testing.TB, engine *Engine, config any) *Model {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	model, err := engine.LoadModel(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func row(first float32) *Tensor[float32] {
	return NewTensor([]float32{first, first + 1, first + 2, first + 3}, 1, 4)
}

// checkRow checks that a response is the mock model's to row(first).
func checkRow(t testing.TB, response *Response, err error, first float32) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	output, err := As[float32](response.Output(0))
	if err != nil {
		t.Error(err)
		return
	}
	want := []float32{2*first + 1, 2*first + 3, 2*first + 5, 2*first + 7}
	if !slices.Equal(output.Data, want) || !slices.Equal(output.Shape, []int64{1, 4}) || output.Name != "y" {
		t.Errorf("%s %v %v, not y [1 4] %v", output.Name, output.Shape, output.Data, want)
	}
}

func TestInferRunsOnTheCallersThreadAndOnTheEngines(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m")}})
	model, err := engine.Model("m")
	if err != nil {
		t.Fatal(err)
	}
	cancellable, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range 10 {
		for _, ctx := range []context.Context{context.Background(), cancellable} {
			response, err := model.Infer(ctx, row(float32(i)).Named("x"))
			checkRow(t, response, err, float32(i))
			if response != nil && (response.Timing.BatchRows != 1 || response.Model == 0) {
				t.Errorf("%+v", response)
			}
		}
	}
}

func TestLargeInputsArePinnedAndOutputsKeepTheirOwnMemory(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m")}})
	model, _ := engine.Model("m")
	const rows = 5000
	large := NewTensor(make([]float32, 4*rows), rows, 4)
	for i := range large.Data {
		large.Data[i] = float32(i)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, ctx := range []context.Context{ctx, context.Background(), context.Background()} {
		response, err := model.Infer(ctx, large)
		if err != nil {
			t.Fatal(err)
		}
		output, err := As[float32](response.Named("y"))
		if err != nil || len(output.Data) != len(large.Data) || output.Data[4*rows-1] != 2*(4*rows-1)+1 {
			t.Fatalf("%v: %d", err, len(output.Data))
		}
	}
}

func TestManyRequestsInOneCall(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m")}})
	model, _ := engine.Model("m")
	requests := make([]Request, 1000)
	for i := range requests {
		requests[i] = Request{Inputs: []Value{row(float32(i))}}
	}
	futures, err := model.SubmitAll(context.Background(), requests)
	if err != nil || len(futures) != len(requests) {
		t.Fatal(len(futures), err)
	}
	for i, future := range futures {
		response, err := future.Result()
		checkRow(t, response, err, float32(i))
	}
	if none, err := model.SubmitAll(context.Background(), nil); len(none) != 0 || err != nil {
		t.Error(none, err)
	}
}

func TestTheBadOnesOfManyRequestsAreRefusedAndTheOthersAnswered(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m")}})
	model, _ := engine.Model("m")
	requests := make([]Request, 100)
	for i := range requests {
		requests[i] = Request{Inputs: []Value{row(float32(i))}}
		switch i % 3 {
		case 1:
			requests[i].Inputs = []Value{NewTensor([]float64{1, 2, 3, 4}, 1, 4)}
		case 2:
			requests[i].Inputs = []Value{row(1), nil}
		}
	}
	futures, err := model.SubmitAll(context.Background(), requests)
	if err != nil {
		t.Fatal(err)
	}
	for i, future := range futures {
		response, err := future.Result()
		switch i % 3 {
		case 0:
			checkRow(t, response, err, float32(i))
		case 1:
			if !errors.Is(err, ErrInvalidDType) {
				t.Error(i, err)
			}
		case 2:
			if !errors.Is(err, ErrNullPointer) {
				t.Error(i, err)
			}
		}
	}
}

func TestTheQueueHasAnEnd(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("m", slow(20*time.Millisecond))}}, WithQueueCapacity(4))
	model, _ := engine.Model("m")
	futures, err := model.SubmitAll(context.Background(), slices.Repeat([]Request{{Inputs: []Value{row(1)}}}, 10))
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	for _, future := range futures {
		if response, err := future.Result(); errors.Is(err, ErrQueueFull) {
			full++
			var failure *Error
			if !errors.As(err, &failure) || failure.Message == "" || !strings.Contains(err.Error(), "QUEUE_FULL") {
				t.Error(err)
			}
		} else {
			checkRow(t, response, err, 1)
		}
	}
	if full != 6 {
		t.Errorf("%d were refused, not 6", full)
	}
}

func TestAContextCancelsAndSetsDeadlines(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("slow", slow(10*time.Second))}})
	model, _ := engine.Model("slow")
	calls := map[string]func(context.Context) error{
		"Infer": func(ctx context.Context) error {
			_, err := model.Infer(ctx, row(1))
			return err
		},
		"Submit": func(ctx context.Context) error {
			future, err := model.Submit(ctx, row(1))
			if err != nil {
				return err
			}
			_, err = future.Result()
			return err
		},
		"SubmitAll": func(ctx context.Context) error {
			futures, err := model.SubmitAll(ctx, []Request{{Inputs: []Value{row(1)}}, {Inputs: []Value{row(2)}}})
			if err != nil {
				return err
			}
			_, first := futures[0].Result()
			_, second := futures[1].Result()
			if StatusOf(first) != StatusOf(second) {
				return fmt.Errorf("%v, but %v", first, second)
			}
			return first
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(5*time.Millisecond, cancel)
			if err := call(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
				t.Error(err)
			}
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Error("ended before:", err)
			}
			limited, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			if err := call(limited); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrExpired) {
				t.Error(err)
			}
		})
	}
	_, err := model.InferRequest(context.Background(), &Request{Inputs: []Value{row(1)}, Timeout: 5 * time.Millisecond})
	if !errors.Is(err, ErrExpired) || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestAFutureMayBeCancelledAndWaitedForByMany(t *testing.T) {
	engine := newEngine(t, object{"models": []any{mock("slow", slow(10*time.Second))}})
	model, _ := engine.Model("slow")
	future, err := model.Submit(context.Background(), row(1))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := future.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	waiting := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := future.Wait(context.Background())
			waiting <- err
		}()
	}
	future.Cancel()
	for range 3 {
		if err := <-waiting; !errors.Is(err, ErrCancelled) {
			t.Error(err)
		}
	}
	future.Cancel()
	<-future.Done()
}

func TestEveryElementTypeGoesInAndOut(t *testing.T) {
	roundTrip(t, "f32", []float32{1.5, -2})
	roundTrip(t, "f64", []float64{1.5, -2})
	roundTrip(t, "i8", []int8{1, -2})
	roundTrip(t, "i16", []int16{1, -2})
	roundTrip(t, "i32", []int32{1, -2})
	roundTrip(t, "i64", []int64{1, -2})
	roundTrip(t, "u8", []uint8{1, 2})
	roundTrip(t, "u16", []uint16{1, 2})
	roundTrip(t, "u32", []uint32{1, 2})
	roundTrip(t, "u64", []uint64{1, 2})
	roundTrip(t, "bool", []bool{true, false})
	roundTrip(t, "f16", []Float16{0x3C00, 0xC000})
	roundTrip(t, "bf16", []BFloat16{0x3F80, 0xC000})
}

func roundTrip[T Element](t *testing.T, dtype string, data []T) {
	t.Run(dtype, func(t *testing.T) {
		tensor := object{"name": "x", "dtype": dtype, "shape": []any{"rows", len(data)}}
		output := object{"name": "y", "dtype": dtype, "shape": []any{"rows", len(data)}}
		engine := newEngine(t, nil)
		model := load(t, engine, object{"name": "echo", "backend": "mock",
			"mock": object{"compute": "echo", "inputs": []any{tensor}, "outputs": []any{output}}})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, ctx := range []context.Context{ctx, context.Background()} {
			response, err := model.Infer(ctx, NewTensor(data, 1, int64(len(data))))
			if err != nil {
				t.Fatal(err)
			}
			got, err := As[T](response.Output(0))
			if err != nil || !slices.Equal(got.Data, data) || got.DType() != DTypeOf[T]() {
				t.Errorf("%v: %v, not %v", err, got, data)
			}
		}
		if got := DTypeOf[T]().String(); got != dtype {
			t.Errorf("%s is called %s", dtype, got)
		}
	})
}

func TestStringsGoInAndOut(t *testing.T) {
	path := models(t, "identity_string.onnx")
	engine := newEngine(t, nil)
	model := load(t, engine, object{"name": "strings", "path": path})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	texts := []string{"", "one", "zwölf", strings.Repeat("long ", 1000)}
	for _, ctx := range []context.Context{ctx, context.Background()} {
		response, err := model.Infer(ctx, NewTensor(texts, 1, 4))
		if err != nil {
			t.Fatal(err)
		}
		got, err := As[string](response.Output(0))
		if err != nil || !slices.Equal(got.Data, texts) {
			t.Errorf("%v: %q", err, got.Data)
		}
	}
}

// models returns the path of a model that tests share.
func models(t testing.TB, name string) string {
	path := filepath.Join("..", "..", "tests", "models", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongTypesAndShapesOfTensors(t *testing.T) {
	raw := &Raw{Name: "r", DType: Float32, Shape: []int64{3}, Data: make([]byte, 13)[1:]}
	if _, err := As[float64](raw); !errors.Is(err, ErrInvalidDType) {
		t.Error(err)
	}
	if got, err := As[float32](raw); err != nil || len(got.Data) != 3 {
		t.Error("not aligned:", err)
	}
	if _, err := As[float32](&Raw{DType: Float32, Data: make([]byte, 13)}); !errors.Is(err, ErrInvalidSize) {
		t.Error(err)
	}
	if _, err := As[float32]((&Response{}).Output(0)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if whole, err := Stack(row(1), row(2)); err != nil || !slices.Equal(whole.Shape, []int64{2, 4}) || whole.Data[4] != 2 {
		t.Error(whole, err)
	}
	if _, err := Stack(row(1), NewTensor([]float32{1}, 1, 1)); !errors.Is(err, ErrInvalidShape) {
		t.Error(err)
	}
	for bits, value := range map[Float16]float32{0x3C00: 1, 0xC000: -2, 0x0001: 1.0 / (1 << 24), 0x7BFF: 65504, 0x8000: 0} {
		if got := bits.Float32(); got != value {
			t.Errorf("%04x is %v, not %v", uint16(bits), got, value)
		}
	}
}

func TestDigitsAreToldApart(t *testing.T) {
	digits, labels := readDigits(t)
	engine := newEngine(t, object{"models": []any{object{"name": "digits", "path": digitsModel}}})
	model, err := engine.Model("digits:1")
	if err != nil {
		t.Fatal(err)
	}
	requests := make([]Request, len(digits))
	for i, digit := range digits {
		requests[i].Inputs = []Value{NewTensor(digit, 1, 1, 8, 8)}
	}
	futures, err := model.SubmitAll(context.Background(), requests)
	if err != nil {
		t.Fatal(err)
	}
	right := 0
	for i, future := range futures {
		response, err := future.Result()
		if err != nil {
			t.Fatal(err)
		}
		scores, err := As[float32](response.Output(0))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Index(scores.Data, slices.Max(scores.Data)) == int(labels[i]) {
			right++
		}
	}
	if right < len(digits)*95/100 {
		t.Errorf("%d of %d", right, len(digits))
	}
	info, err := model.Info()
	if err != nil || !json.Valid(info) || !strings.Contains(string(info), `"inputs"`) {
		t.Error(string(info), err)
	}
}

var digitsModel = filepath.Join("..", "..", "models", "digits", "digits.onnx")

// readDigits reads the held-out digits: 64 pixels from 0 to 16, and a label.
func readDigits(t testing.TB) (digits [][]float32, labels []byte) {
	bytes, err := os.ReadFile(filepath.Join("..", "..", "models", "digits", "digits-test.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for record := range slices.Chunk(bytes, 65) {
		digit := make([]float32, 64)
		for i := range digit {
			digit[i] = float32(record[i]) / 16
		}
		digits, labels = append(digits, digit), append(labels, record[64])
	}
	return digits, labels
}
