package blaze

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"encoding/json"
	"time"
)

// HealthState says how an engine is.
type HealthState uint32

// The states of an engine.
const (
	// HealthOK means that nothing is wrong, and requests are taken.
	HealthOK HealthState = C.BLAZE_HEALTH_OK
	// HealthDegraded means that some model or route is in trouble.
	HealthDegraded HealthState = C.BLAZE_HEALTH_DEGRADED
	// HealthFailed means that no model works, nothing gets done, or the engine is shut down.
	HealthFailed HealthState = C.BLAZE_HEALTH_FAILED
)

// String returns "ok", "degraded" or "failed".
func (s HealthState) String() string {
	switch s {
	case HealthOK:
		return "ok"
	case HealthDegraded:
		return "degraded"
	}
	return "failed"
}

// Health is how an engine is.
type Health struct {
	State HealthState
	// Accepting is whether requests are taken.
	Accepting bool
	// Live is whether work that there is gets done.
	Live bool
	// Ready is whether requests are taken and every model and route can answer; [Engine.HealthJSON] says why not.
	Ready bool
	// ModelsReady, ModelsDegraded and ModelsFailed count models; ModelsSlow those that take much longer than they used to.
	ModelsReady, ModelsDegraded, ModelsFailed, ModelsSlow int
	// QueueDepth is requests that no lane has taken yet, InFlight those without an end.
	QueueDepth, InFlight uint64
	// MemoryBytes is in the engine's ledger: models, buffers and caches.
	MemoryBytes uint64
}

// Health returns how the engine is. It may be asked at any rate.
func (e *Engine) Health() (Health, error) {
	info := C.blaze_health_info{struct_size: C.sizeof_blaze_health_info}
	if err := e.call(func(*C.blaze_error) C.blaze_status { return C.blaze_health(e.handle, &info) }); err != nil {
		return Health{}, err
	}
	return Health{
		State: HealthState(info.state), Accepting: info.accepting != 0, Live: info.live != 0, Ready: info.ready != 0,
		ModelsReady: int(info.models_ready), ModelsDegraded: int(info.models_degraded), ModelsFailed: int(info.models_failed),
		ModelsSlow: int(info.models_slow), QueueDepth: uint64(info.queue_depth), InFlight: uint64(info.in_flight),
		MemoryBytes: uint64(info.memory_bytes),
	}, nil
}

// HealthJSON returns the same as a JSON object, with every model's state: see blaze_health_json.
func (e *Engine) HealthJSON() (json.RawMessage, error) {
	return e.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, _ *C.blaze_error) C.blaze_status {
		return C.blaze_health_json(e.handle, buffer, capacity, needed)
	})
}

// Quantiles are of a duration since the engine was made, to within 3.2 %.
type Quantiles struct{ P50, P90, P99, P999 time.Duration }

func quantiles(from *C.blaze_quantiles) Quantiles {
	return Quantiles{time.Duration(from.p50_ns), time.Duration(from.p90_ns), time.Duration(from.p99_ns), time.Duration(from.p999_ns)}
}

// Metrics are an engine's counters since it was made.
type Metrics struct {
	// Accepted requests, and Rejected ones, which were refused at submit.
	Accepted, Rejected uint64
	// OK, Failed, Cancelled, Expired and ShutDown are how accepted requests ended.
	OK, Failed, Cancelled, Expired, ShutDown uint64
	// Batches, and the Rows in all of them.
	Batches, Rows uint64
	// InFlight and QueueDepth are as in [Health].
	InFlight, QueueDepth uint64
	// MemoryBytes is in the engine's ledger.
	MemoryBytes uint64
	// Duration is from submit to the end, of requests that ended well, and DurationMax its largest value.
	Duration    Quantiles
	DurationMax time.Duration
	// Queued is from submit until a lane took the request.
	Queued Quantiles
	// Computed is inside the backend, BatchWait is while a batch was held open, and Copied is moving rows: of batches.
	Computed, BatchWait, Copied Quantiles
	// EventsWaiting are ready and not taken.
	EventsWaiting uint64
	// Evictions are models that left memory for others, and ModelMisses requests for a model that was not there.
	Evictions, ModelMisses uint64
}

// Metrics returns the engine's counters.
func (e *Engine) Metrics() (Metrics, error) {
	info := C.blaze_metrics_info{struct_size: C.sizeof_blaze_metrics_info}
	if err := e.call(func(*C.blaze_error) C.blaze_status { return C.blaze_metrics(e.handle, &info) }); err != nil {
		return Metrics{}, err
	}
	return Metrics{
		Accepted: uint64(info.requests_accepted), Rejected: uint64(info.requests_rejected), OK: uint64(info.requests_ok),
		Failed: uint64(info.requests_failed), Cancelled: uint64(info.requests_cancelled),
		Expired: uint64(info.requests_expired), ShutDown: uint64(info.requests_shut_down),
		Batches: uint64(info.batches), Rows: uint64(info.rows), InFlight: uint64(info.in_flight),
		QueueDepth: uint64(info.queue_depth), MemoryBytes: uint64(info.memory_bytes),
		Duration: quantiles(&info.duration), DurationMax: time.Duration(info.duration_max_ns), Queued: quantiles(&info.queued),
		Computed: quantiles(&info.computed), BatchWait: quantiles(&info.batch_wait), Copied: quantiles(&info.copied),
		EventsWaiting: uint64(info.events_waiting), Evictions: uint64(info.evictions), ModelMisses: uint64(info.model_misses),
	}, nil
}

// MetricsFormat is a form of [Engine.MetricsText].
type MetricsFormat uint32

// The forms of metrics.
const (
	// MetricsPrometheus is Prometheus' text exposition format, version 0.0.4.
	MetricsPrometheus MetricsFormat = C.BLAZE_METRICS_PROMETHEUS
	// MetricsJSON is one JSON object.
	MetricsJSON MetricsFormat = C.BLAZE_METRICS_JSON
	// MetricsTrends is what the engine did in the last minutes and hours, as JSON.
	MetricsTrends MetricsFormat = C.BLAZE_METRICS_TRENDS
)

// MetricsText returns the metrics of the engine and its models as text.
func (e *Engine) MetricsText(format MetricsFormat) ([]byte, error) {
	return e.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, _ *C.blaze_error) C.blaze_status {
		return C.blaze_metrics_text(e.handle, C.blaze_metrics_format(format), buffer, capacity, needed)
	})
}

// Finding is something that holds an engine back, and what to do about it; see blaze_advice_json.
type Finding struct {
	// Bottleneck is what it is, such as "batch_too_small".
	Bottleneck string `json:"bottleneck"`
	// Score is the share of time or of requests that a cure should win, from 0 to 1.
	Score float64 `json:"score"`
	// Explanation and Advice are for people.
	Explanation string `json:"explanation"`
	Advice      string `json:"advice"`
	// Subject, Evidence, Change and Expected are objects as the header describes them; Figure is what should become better.
	Subject  json.RawMessage `json:"subject"`
	Evidence json.RawMessage `json:"evidence"`
	Change   json.RawMessage `json:"change"`
	Figure   string          `json:"figure"`
	Expected json.RawMessage `json:"expected"`
}

// Advice returns what holds the engine back, the worst first. Nothing is found where nothing is wrong.
func (e *Engine) Advice() ([]Finding, error) {
	text, err := e.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, _ *C.blaze_error) C.blaze_status {
		return C.blaze_advice_json(e.handle, buffer, capacity, needed)
	})
	if err != nil {
		return nil, err
	}
	var advice struct {
		Findings []Finding `json:"findings"`
	}
	if err := json.Unmarshal(text, &advice); err != nil {
		return nil, &Error{Status: ErrInternal, Message: err.Error(), cause: err}
	}
	return advice.Findings, nil
}

// StartProfile begins to profile the engine. The keys are those of blaze_profile_start; nil is all defaults.
func (e *Engine) StartProfile(config any) error {
	return e.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_profile_start(e.handle, text, failure)
	})
}

// StopProfile stops profiling. What was recorded stays for reports, until the next start.
func (e *Engine) StopProfile() error {
	return e.call(func(failure *C.blaze_error) C.blaze_status { return C.blaze_profile_stop(e.handle, failure) })
}

// ReportFormat is a form of [Engine.ProfileReport].
type ReportFormat uint32

// The forms of reports.
const (
	// ReportJSON is one JSON object.
	ReportJSON ReportFormat = C.BLAZE_REPORT_JSON
	// ReportTrace is a trace for ui.perfetto.dev.
	ReportTrace ReportFormat = C.BLAZE_REPORT_TRACE
	// ReportHTML is one page with pictures, which needs nothing else.
	ReportHTML ReportFormat = C.BLAZE_REPORT_HTML
)

// ProfileReport returns what was recorded, also while it is being recorded.
func (e *Engine) ProfileReport(format ReportFormat) ([]byte, error) {
	return e.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, failure *C.blaze_error) C.blaze_status {
		return C.blaze_profile_report(e.handle, C.blaze_report_format(format), buffer, capacity, needed, failure)
	})
}

// Tune searches the settings that a model runs best with, and returns the report. The keys are those of blaze_tune. When ctx
// ends, the search does, and the settings are what they were.
func (e *Engine) Tune(ctx context.Context, config any) (json.RawMessage, error) {
	text, err := configuration(config)
	if err != nil {
		return nil, err
	}
	defer freeText(text)
	future, err := e.job(ctx, nil, func(userData C.uint64_t, ticket *C.blaze_ticket, failure *C.blaze_error) C.blaze_status {
		return C.blaze_tune(e.handle, text, e.queue.handle, userData, ticket, failure)
	})
	if err != nil {
		return nil, err
	}
	return json.RawMessage(future.text), nil
}

// TuneReport returns what tuning has found, as blaze_tune_report says.
func (e *Engine) TuneReport() (json.RawMessage, error) {
	return e.text(func(buffer *C.char, capacity C.size_t, needed *C.size_t, _ *C.blaze_error) C.blaze_status {
		return C.blaze_tune_report(e.handle, buffer, capacity, needed)
	})
}
