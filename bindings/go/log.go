package blaze

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"
	"unsafe"
)

// linesKept is how many lines of the log may wait for the handler. More are lost, and the next line says how many.
const linesKept = 4096

// LevelTrace is the level of the library's finest lines, below [slog.LevelDebug].
const LevelTrace = slog.LevelDebug - 4

func freeText(text *C.char) { C.free(unsafe.Pointer(text)) }

// logger passes lines of an engine's log on. A line is said by a thread of the library's while others may wait for it, and
// a handler may do anything: wait for a lock that is held around a call into Blaze, or make such a call itself. So the
// library never calls Go. C keeps the lines, and this goroutine takes them.
type logger struct {
	lines *C.blazego_log
	done  chan struct{}
}

// SetLogger has the lines of the engine's log go to logger's handler, at the level that the handler is enabled for now
// ([Engine.ConfigureLog] changes it); nil ends that. The handler is called by a goroutine of its own, in order, so it may
// take its time: up to 4096 lines wait, and how many were lost is in the attribute "lost". Attributes are "module" and what
// the line is about, such as "model".
func (e *Engine) SetLogger(to *slog.Logger) error {
	if !e.gate.enter() {
		return errClosed()
	}
	defer e.gate.leave()
	e.logs.Lock()
	defer e.logs.Unlock()
	var next *logger
	lines := (*C.blazego_log)(nil)
	if to != nil {
		if lines = C.blazego_log_new(linesKept); lines == nil {
			return &Error{Status: ErrOutOfMemory}
		}
		next = &logger{lines: lines, done: make(chan struct{})}
	}
	var failure C.blaze_error
	if err := fail(C.blazego_log_attach(e.handle, lines, &failure), &failure); err != nil {
		if lines != nil {
			C.blazego_log_free(lines)
		}
		return err
	}
	e.logs.logger.end()
	e.logs.logger = next
	config := map[string]any{"target": "none"}
	if next != nil {
		go next.serve(to.Handler())
		config = wanted(to)
	}
	return e.ConfigureLog(config)
}

// wanted is the log's configuration for a logger.
func wanted(by *slog.Logger) map[string]any {
	return map[string]any{"target": "callback", "level": lowest(by)}
}

// withLog makes an engine's configuration one whose engine logs to a callback from the beginning: lines are kept until it
// is set. It takes the text over. What is no configuration stays as it is, for the library to say so.
func withLog(text *C.char, to *slog.Logger) (*C.char, error) {
	config := map[string]json.RawMessage{}
	if text != nil && (json.Unmarshal([]byte(C.GoString(text)), &config) != nil || config == nil) {
		return text, nil
	}
	given := map[string]any{}
	if log := config["log"]; log != nil && json.Unmarshal(log, &given) != nil {
		return text, nil
	}
	log := wanted(to)
	for key, value := range given {
		if _, ours := log[key]; !ours {
			log[key] = value
		}
	}
	var err error
	if config["log"], err = json.Marshal(log); err != nil {
		return text, err
	}
	freeText(text)
	return configuration(config)
}

// ConfigureLog changes what the engine logs, and where. The keys are those of blaze_log_configure.
func (e *Engine) ConfigureLog(config any) error {
	return e.configure(config, func(text *C.char, failure *C.blaze_error) C.blaze_status {
		return C.blaze_log_configure(e.handle, text, failure)
	})
}

// lowest is the finest of the library's levels that a logger wants.
func lowest(to *slog.Logger) string {
	for _, level := range []struct {
		name  string
		level slog.Level
	}{{"trace", LevelTrace}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}} {
		if to.Enabled(context.Background(), level.level) {
			return level.name
		}
	}
	return "off"
}

func level(from C.uint32_t) slog.Level {
	switch from {
	case C.BLAZE_LOG_ERROR:
		return slog.LevelError
	case C.BLAZE_LOG_WARN:
		return slog.LevelWarn
	case C.BLAZE_LOG_INFO:
		return slog.LevelInfo
	case C.BLAZE_LOG_DEBUG:
		return slog.LevelDebug
	}
	return LevelTrace
}

// serve hands lines to the handler until the log ends and none is left.
func (l *logger) serve(handler slog.Handler) {
	defer close(l.done)
	defer C.blazego_log_free(l.lines)
	for {
		lines := C.blazego_log_take(l.lines)
		if lines == nil {
			return
		}
		for line := lines; line != nil; line = line.next {
			handle(handler, line)
		}
		C.blazego_lines_free(lines)
	}
}

func handle(handler slog.Handler, line *C.blazego_line) {
	ctx := context.Background()
	if !handler.Enabled(ctx, level(line.level)) {
		return
	}
	text := unsafe.Add(unsafe.Pointer(line), C.sizeof_blazego_line)
	part := func(size C.uint32_t) []byte {
		bytes := unsafe.Slice((*byte)(text), int(size))
		text = unsafe.Add(text, int(size))
		return bytes
	}
	module, message, fields := string(part(line.module_bytes)), string(part(line.message_bytes)), part(line.fields_bytes)
	record := slog.NewRecord(time.Unix(0, int64(line.time_ns)), level(line.level), message, 0)
	record.AddAttrs(slog.String("module", module))
	record.AddAttrs(attributes(fields)...)
	if line.lost > 0 {
		record.AddAttrs(slog.Uint64("lost", uint64(line.lost)))
	}
	// A handler's error has nowhere to go but to the log.
	_ = handler.Handle(ctx, record)
}

// attributes are the fields of a JSON object, in its order.
func attributes(fields []byte) []slog.Attr {
	var all []slog.Attr
	decoder := json.NewDecoder(bytes.NewReader(fields))
	decoder.UseNumber()
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil
	}
	for decoder.More() {
		key, err := decoder.Token()
		var value any
		if err != nil || decoder.Decode(&value) != nil {
			break
		}
		if number, ok := value.(json.Number); ok {
			if whole, err := number.Int64(); err == nil {
				value = whole
			} else if float, err := number.Float64(); err == nil {
				value = float
			}
		}
		all = append(all, slog.Any(key.(string), value))
	}
	return all
}

// end lets the handler have the lines that there are, and waits for it. The library calls no more.
func (l *logger) end() {
	if l != nil {
		C.blazego_log_end(l.lines)
		<-l.done
	}
}
