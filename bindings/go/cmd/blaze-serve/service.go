package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"blaze"
)

// options are what the service limits.
type options struct {
	maxBody int64
	timeout time.Duration
}

// service answers HTTP requests with an engine.
type service struct {
	engine   *blaze.Engine
	options  options
	routes   *http.ServeMux
	models   sync.Map    // of *model by name
	stopping atomic.Bool // not ready any more
	draining atomic.Bool // connections end with their next answer
	accepted atomic.Int64
	started  time.Time
	latest   atomic.Int64 // when the last request came, since then

	connections atomic.Int64
}

// problem is an error with the status that HTTP has for it.
type problem struct {
	code int
	err  error
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

func bad(format string, arguments ...any) error {
	return &problem{http.StatusBadRequest, fmt.Errorf(format, arguments...)}
}

func newService(engine *blaze.Engine, options options) *service {
	s := &service{engine: engine, options: options, routes: http.NewServeMux(), started: time.Now()}
	handle := func(pattern string, handler func(http.ResponseWriter, *http.Request) error) {
		s.routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handler(w, r); err != nil {
				writeError(w, err)
			}
		})
	}
	handle("GET /healthz", s.live)
	handle("GET /readyz", s.ready)
	handle("GET /metrics", s.metrics)
	handle("GET /v2", s.server)
	handle("GET /v2/{$}", s.server)
	handle("GET /v2/health/live", s.live)
	handle("GET /v2/health/ready", s.ready)
	for _, model := range []string{"/v2/models/{name}", "/v2/models/{name}/versions/{version}"} {
		handle("GET "+model, s.describe)
		handle("GET "+model+"/ready", s.modelReady)
		handle("POST "+model+"/infer", s.infer)
	}
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &problem{http.StatusNotFound, fmt.Errorf("there is no %s %s", r.Method, r.URL.Path)}
	})
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.accepted.Add(1)
	s.noted()
	if s.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	s.routes.ServeHTTP(w, r)
}

// noted remembers that there is traffic.
func (s *service) noted() { s.latest.Store(int64(time.Since(s.started))) }

// quiet returns how long ago the last request came, or the end began.
func (s *service) quiet() time.Duration {
	return time.Since(s.started) - time.Duration(s.latest.Load())
}

// count is told what becomes of connections.
func (s *service) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.connections.Add(-1)
	}
}

// codes says which HTTP status a failure has; others are 500.
var codes = map[blaze.Status]int{
	blaze.ErrInvalidArgument: 400, blaze.ErrInvalidName: 400, blaze.ErrInvalidDType: 400, blaze.ErrInvalidShape: 400,
	blaze.ErrInvalidSize: 400, blaze.ErrUnsupported: 400, blaze.ErrNullPointer: 400, blaze.ErrNotFound: 404,
	blaze.ErrModelNotFound: 404, blaze.ErrRateLimited: 429, blaze.ErrOverQuota: 429, blaze.ErrQueueFull: 429,
	blaze.ErrShutDown: 503, blaze.ErrOverBudget: 503, blaze.ErrOutOfMemory: 503, blaze.ErrDeviceLost: 503,
	blaze.ErrBusy: 503, blaze.ErrExpired: 504, blaze.ErrTimeout: 504, blaze.ErrCancelled: 499,
}

func codeOf(err error) int {
	var limit *http.MaxBytesError
	if errors.As(err, &limit) {
		return http.StatusRequestEntityTooLarge
	}
	var known *problem
	if errors.As(err, &known) {
		return known.code
	}
	if code, ok := codes[blaze.StatusOf(err)]; ok {
		return code
	}
	return http.StatusInternalServerError
}

func writeError(w http.ResponseWriter, err error) {
	code := codeOf(err)
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		seconds := int64(1)
		var failure *blaze.Error
		if errors.As(err, &failure) && failure.RetryAfter > 0 {
			seconds = max(1, int64(math.Ceil(failure.RetryAfter.Seconds())))
		}
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	writeJSON(w, code, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"error":"the answer is no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	_, _ = w.Write(text)
}

func (s *service) live(w http.ResponseWriter, _ *http.Request) error {
	health, err := s.engine.Health()
	if err != nil || !health.Live {
		return &problem{http.StatusServiceUnavailable, errors.New("the engine is not live")}
	}
	writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	return nil
}

func (s *service) ready(w http.ResponseWriter, _ *http.Request) error {
	if s.stopping.Load() {
		return &problem{http.StatusServiceUnavailable, errors.New("the service is shutting down")}
	}
	health, err := s.engine.Health()
	if err != nil || !health.Ready {
		return &problem{http.StatusServiceUnavailable, errors.New("the engine is not ready: see \"not_ready_because\" of its health")}
	}
	writeJSON(w, http.StatusOK, map[string]bool{"ready": true})
	return nil
}

func (s *service) metrics(w http.ResponseWriter, _ *http.Request) error {
	text, err := s.engine.MetricsText(blaze.MetricsPrometheus)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text)
	return nil
}

func (s *service) server(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]any{
		"name": "blaze", "version": blaze.Version(), "extensions": []string{"binary_tensor_data", "parameters"},
	})
	return nil
}

// model is what the service knows of a model.
type model struct {
	*blaze.Model
	about struct {
		Name    string   `json:"name"`
		Version uint64   `json:"version"`
		Backend string   `json:"backend"`
		Inputs  []tensor `json:"inputs"`
		Outputs []tensor `json:"outputs"`
	}
}

// tensor is an input or output as the engine describes it: an axis is a size, a name, or null.
type tensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []any  `json:"shape"`
}

// find returns a model of the request's path. Models are kept, as they are asked for all the time; what was unloaded or
// loaded anew is found out when the engine does not know it any more.
func (s *service) find(r *http.Request) (*model, error) {
	name := r.PathValue("name")
	if version := r.PathValue("version"); version != "" {
		name += ":" + version
	}
	if known, ok := s.models.Load(name); ok {
		return known.(*model), nil
	}
	if strings.ContainsRune(name, 0) {
		return nil, bad("a model's name has no NUL in it")
	}
	found, err := s.engine.Model(name)
	if err != nil {
		return nil, err
	}
	info, err := found.Info()
	if err != nil {
		return nil, err
	}
	m := &model{Model: found}
	if err := json.Unmarshal(info, &m.about); err != nil {
		return nil, fmt.Errorf("what the engine says of %s: %w", name, err)
	}
	s.models.Store(name, m)
	return m, nil
}

// forget has a model be looked for again.
func (s *service) forget(r *http.Request) {
	name := r.PathValue("name")
	if version := r.PathValue("version"); version != "" {
		name += ":" + version
	}
	s.models.Delete(name)
}

func (s *service) describe(w http.ResponseWriter, r *http.Request) error {
	s.forget(r)
	m, err := s.find(r)
	if err != nil {
		return err
	}
	tensors := func(from []tensor) []map[string]any {
		to := make([]map[string]any, len(from))
		for i, t := range from {
			shape := make([]int64, len(t.Shape))
			for axis, size := range t.Shape {
				shape[axis] = -1
				if fixed, ok := size.(float64); ok {
					shape[axis] = int64(fixed)
				}
			}
			to[i] = map[string]any{"name": t.Name, "datatype": datatypeNamed(t.DType), "shape": shape}
		}
		return to
	}
	platform := m.about.Backend
	if platform == "onnx" {
		platform = "onnx_onnxv1"
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"name": r.PathValue("name"), "versions": []string{m.version()}, "platform": platform,
		"inputs": tensors(m.about.Inputs), "outputs": tensors(m.about.Outputs),
	})
	return nil
}

func (m *model) version() string { return strconv.FormatUint(max(m.about.Version, 1), 10) }

func (s *service) modelReady(w http.ResponseWriter, r *http.Request) error {
	s.forget(r)
	if _, err := s.find(r); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]bool{"ready": true})
	return nil
}

// buffers are for bodies.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// body reads the request's body, whatever it is packed in.
func (s *service) body(w http.ResponseWriter, r *http.Request, into *bytes.Buffer) error {
	from := io.Reader(http.MaxBytesReader(w, r.Body, s.options.maxBody))
	var err error
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		from, err = gzip.NewReader(from)
	case "deflate":
		from, err = zlib.NewReader(from)
	default:
		return &problem{http.StatusUnsupportedMediaType, fmt.Errorf("Content-Encoding %q is not supported", encoding)}
	}
	if err != nil {
		return bad("the body cannot be unpacked: %w", err)
	}
	// What is packed may be much larger than what it is packed in.
	if _, err := into.ReadFrom(io.LimitReader(from, s.options.maxBody+1)); err != nil {
		return bad("the body cannot be read: %w", err)
	}
	if int64(into.Len()) > s.options.maxBody {
		return &http.MaxBytesError{Limit: s.options.maxBody}
	}
	return nil
}

func (s *service) infer(w http.ResponseWriter, r *http.Request) error {
	m, err := s.find(r)
	if err != nil {
		return err
	}
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer func() {
		if buffer.Cap() <= 1<<20 {
			buffers.Put(buffer)
		}
	}()
	if err := s.body(w, r, buffer); err != nil {
		return err
	}
	request, err := parse(buffer.Bytes(), r.Header.Get("Inference-Header-Content-Length"))
	if err != nil {
		return err
	}
	if tenant := r.Header.Get("X-Tenant-Id"); tenant != "" {
		if request.work.Tenant, err = strconv.ParseUint(tenant, 10, 64); err != nil {
			return bad("X-Tenant-Id is no number")
		}
	}
	if request.work.Timeout == 0 || request.work.Timeout > s.options.timeout {
		request.work.Timeout = s.options.timeout
	}
	response, err := s.ask(r.Context(), m, r, &request.work)
	if err != nil {
		return err
	}
	return request.answer(w, m, r.PathValue("name"), response)
}

// ask sends the request to the engine; once more if the model is another one by now.
func (s *service) ask(ctx context.Context, m *model, r *http.Request, work *blaze.Request) (*blaze.Response, error) {
	response, err := m.InferRequest(ctx, work)
	if !errors.Is(err, blaze.ErrNotFound) {
		return response, err
	}
	s.forget(r)
	again, found := s.find(r)
	if found != nil {
		return nil, found
	}
	if again.ID() == m.ID() {
		return nil, err
	}
	return again.InferRequest(ctx, work)
}
