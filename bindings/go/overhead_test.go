package blaze

import (
	"context"
	"encoding/json"
	"slices"
	"syscall"
	"testing"
	"time"

	"blaze/internal/baseline"
)

// BenchmarkOverhead measures what a request costs in Go more than in C, with a model that does nearly nothing. Both take
// turns in the same process; the figures are medians of the rounds, in nanoseconds for each request. What is more in CPU time
// counts all threads, also those that wait and spin.
func BenchmarkOverhead(b *testing.B) {
	const columns, batch, turns = 64, 256, 21
	config := object{"models": []any{object{"name": "m", "backend": "mock",
		"mock": object{"inputs": []object{{"name": "x", "shape": []any{"rows", columns}}}}}}}
	text, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	c, err := baseline.New(string(text), "m", columns)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	engine := newEngine(b, config)
	model, err := engine.Model("m")
	if err != nil {
		b.Fatal(err)
	}
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	data := make([]float32, columns)
	requests := make([]Request, batch)
	for i := range requests {
		requests[i].Inputs = []Value{NewTensor(data, 1, columns)}
	}
	sum := float32(0)
	look := func(response *Response, err error) {
		if err != nil {
			b.Fatal(err)
		}
		output, err := As[float32](response.Output(0))
		if err != nil {
			b.Fatal(err)
		}
		sum += output.Data[0]
	}
	submitAll := func(rounds int) time.Duration {
		started := time.Now()
		for range rounds {
			futures, err := model.SubmitAll(context.Background(), requests)
			if err != nil {
				b.Fatal(err)
			}
			for _, future := range futures {
				look(future.Result())
			}
		}
		return time.Since(started)
	}
	submitEach := func(rounds int) time.Duration {
		started := time.Now()
		futures := make([]*Future, batch)
		for range rounds {
			for i := range futures {
				if futures[i], err = model.Submit(context.Background(), requests[i].Inputs...); err != nil {
					b.Fatal(err)
				}
			}
			for _, future := range futures {
				look(future.Result())
			}
		}
		return time.Since(started)
	}
	infer := func(ctx context.Context) func(int) time.Duration {
		return func(rounds int) time.Duration {
			started := time.Now()
			for range rounds {
				look(model.Infer(ctx, requests[0].Inputs...))
			}
			return time.Since(started)
		}
	}
	compare := func(name string, inC, inGo func(int) time.Duration, rounds, each int) {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				var ofC, ofGo, more, cpu []float64
				for range turns {
					before := cpuTime(b)
					c := float64(inC(rounds)) / float64(rounds*each)
					between := cpuTime(b)
					g := float64(inGo(rounds)) / float64(rounds*each)
					ofC, ofGo, more = append(ofC, c), append(ofGo, g), append(more, g-c)
					cpu = append(cpu, float64(cpuTime(b)-between-(between-before))/float64(rounds*each))
				}
				b.ReportMetric(median(ofC), "C-ns/request")
				b.ReportMetric(median(ofGo), "Go-ns/request")
				b.ReportMetric(median(more), "overhead-ns/request")
				b.ReportMetric(median(cpu), "overhead-CPU-ns/request")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
	inC := func(rounds int) time.Duration { return c.Submit(batch, rounds) }
	compare("SubmitAll", inC, submitAll, 200, batch)
	compare("Submit", inC, submitEach, 200, batch)
	compare("Infer", c.Infer, infer(context.Background()), 20000, 1)
	compare("InferCancellable", c.Infer, infer(cancellable), 5000, 1)
	b.Run("Crossing", func(b *testing.B) {
		for range b.N {
			b.ReportMetric(float64(baseline.Crossing(1_000_000))/1_000_000, "ns/op")
		}
	})
	_ = sum
}

// cpuTime is what the process has used of all cores: unlike the time that passes, it is the same on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
