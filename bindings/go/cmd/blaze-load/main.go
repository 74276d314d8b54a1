// Blaze-load sends requests to an HTTP service at a fixed rate, whatever the service does, and says how it has answered.
//
// usage: blaze-load [flags] URL
//
// The load is open: request i is due i / rate seconds after the start, and its latency is counted from then on, also if
// every connection was busy and it could only be sent later. So a service that stalls is charged for the requests that
// should have come meanwhile (no "coordinated omission"). Requests are sent over keep-alive connections; "Connection:
// close" in an answer is obeyed. The result is one JSON object.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "blaze-load:", err)
		os.Exit(1)
	}
}

// result is what is printed. Times are in milliseconds.
type result struct {
	Seconds     float64        `json:"seconds"`
	WantedRate  float64        `json:"wanted_per_second"`
	Rate        float64        `json:"answered_per_second"`
	Due         int64          `json:"due"`
	Sent        int64          `json:"sent"`
	Answered    int64          `json:"answered"`
	OK          int64          `json:"ok"`
	Statuses    map[string]int `json:"statuses"`
	Unanswered  int64          `json:"unanswered"`  // the connection ended after the request was sent, without a byte
	CutOff      int64          `json:"cut_off"`     // the connection ended within the answer
	Unconnected int64          `json:"unconnected"` // no connection could be made, or it was closed before: never sent
	FirstError  string         `json:"first_error,omitempty"`
	P50         float64        `json:"p50_ms"`
	P90         float64        `json:"p90_ms"`
	P99         float64        `json:"p99_ms"`
	P999        float64        `json:"p999_ms"`
	Max         float64        `json:"max_ms"`
	SentP99     float64        `json:"p99_from_sending_ms"` // what a closed loop would have seen
}

// load is what the connections share.
type load struct {
	address  string
	message  []byte
	start    time.Time
	interval time.Duration
	due      int64
	next     atomic.Int64
	gone     atomic.Bool // the service takes no more connections
	untilEnd bool
}

// worker is a connection, and what it has seen.
type worker struct {
	*load
	connection  net.Conn
	reader      *bufio.Reader
	latencies   []time.Duration // of answers with 200, from when they were due
	fromSending []time.Duration
	statuses    map[int]int
	sent        int64
	unanswered  int64
	cutOff      int64
	unconnected int64
	err         error
}

func run() error {
	rate := flag.Float64("rate", 1000, "requests per `second`")
	duration := flag.Duration("duration", 10*time.Second, "for how long")
	connections := flag.Int("connections", 64, "how many")
	file := flag.String("body", "", "a `file` with the body of each request, which is sent with POST; otherwise GET")
	untilEnd := flag.Bool("until-closed", false, "end quietly when the service takes no more connections")
	flag.Parse()
	if flag.NArg() != 1 || *rate <= 0 || *connections < 1 {
		flag.Usage()
		os.Exit(2)
	}
	target, err := url.Parse(flag.Arg(0))
	if err != nil {
		return err
	}
	var body []byte
	if *file != "" {
		if body, err = os.ReadFile(*file); err != nil {
			return err
		}
	}
	l := &load{
		address: target.Host, message: message(target, body), interval: time.Duration(float64(time.Second) / *rate),
		due: int64(*rate * duration.Seconds()), start: time.Now().Add(100 * time.Millisecond), untilEnd: *untilEnd,
	}
	workers := make([]*worker, *connections)
	var busy sync.WaitGroup
	for i := range workers {
		workers[i] = &worker{load: l, statuses: map[int]int{}}
		busy.Add(1)
		go func() {
			defer busy.Done()
			workers[i].run()
		}()
	}
	busy.Wait()
	out := summary(workers, *rate)
	out.Seconds = time.Since(l.start).Seconds()
	out.Rate = float64(out.Answered) / out.Seconds
	out.Due = min(l.next.Load(), l.due)
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}

func message(target *url.URL, body []byte) []byte {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", method, target.RequestURI(), target.Host)
	if body != nil {
		text += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return append([]byte(text+"\r\n"), body...)
}

// run sends whichever request is due next, until all are.
func (w *worker) run() {
	for !w.gone.Load() {
		number := w.next.Add(1) - 1
		if number >= w.due {
			break
		}
		due := w.start.Add(time.Duration(number) * w.interval)
		time.Sleep(time.Until(due))
		if err := w.send(due); err != nil && w.err == nil {
			w.err = err
		}
	}
	w.hangUp()
}

func (w *worker) hangUp() {
	if w.connection != nil {
		w.connection.Close()
		w.connection = nil
	}
}

func (w *worker) send(due time.Time) error {
	if w.connection == nil {
		connection, err := net.DialTimeout("tcp", w.address, 10*time.Second)
		if err != nil {
			w.unconnected++
			if w.untilEnd {
				w.gone.Store(true)
				return nil
			}
			time.Sleep(10 * time.Millisecond)
			return err
		}
		w.connection, w.reader = connection, bufio.NewReader(connection)
	}
	_ = w.connection.SetDeadline(time.Now().Add(60 * time.Second))
	sending := time.Now()
	if _, err := w.connection.Write(w.message); err != nil {
		w.unconnected++
		w.hangUp()
		return err
	}
	w.sent++
	if _, err := w.reader.Peek(1); err != nil {
		w.unanswered++
		w.hangUp()
		return fmt.Errorf("no answer: %w", err)
	}
	response, err := http.ReadResponse(w.reader, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
		err = errors.Join(err, response.Body.Close())
	}
	if err != nil {
		w.cutOff++
		w.hangUp()
		return fmt.Errorf("half an answer: %w", err)
	}
	now := time.Now()
	w.statuses[response.StatusCode]++
	if response.StatusCode == http.StatusOK {
		w.latencies = append(w.latencies, now.Sub(due))
		w.fromSending = append(w.fromSending, now.Sub(sending))
	}
	if response.Close {
		w.hangUp()
	}
	return nil
}

func summary(workers []*worker, rate float64) result {
	out := result{WantedRate: rate, Statuses: map[string]int{}}
	var latencies, fromSending []time.Duration
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
		fromSending = append(fromSending, w.fromSending...)
		for status, count := range w.statuses {
			out.Statuses[strconv.Itoa(status)] += count
			out.Answered += int64(count)
		}
		out.Sent += w.sent
		out.Unanswered += w.unanswered
		out.CutOff += w.cutOff
		out.Unconnected += w.unconnected
		if w.err != nil && out.FirstError == "" {
			out.FirstError = w.err.Error()
		}
	}
	out.OK = int64(out.Statuses["200"])
	slices.Sort(latencies)
	slices.Sort(fromSending)
	out.P50, out.P90, out.P99 = quantile(latencies, 0.5), quantile(latencies, 0.9), quantile(latencies, 0.99)
	out.P999, out.Max = quantile(latencies, 0.999), quantile(latencies, 1)
	out.SentP99 = quantile(fromSending, 0.99)
	return out
}

// quantile is of sorted durations, by the nearest rank, in milliseconds.
func quantile(sorted []time.Duration, part float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(part * float64(len(sorted))))
	return float64(sorted[max(rank, 1)-1]) / float64(time.Millisecond)
}
