// Blaze-serve serves models over HTTP in the Open Inference Protocol, version 2, which KServe and Triton's clients speak.
//
// usage: blaze-serve [flags] CONFIGURATION
//
// CONFIGURATION is a file with the engine's configuration, as for blaze_engine_create; "-" is standard input. On SIGTERM or
// SIGINT the service says at /readyz that it is not ready, and goes on for -drain-delay, so that load balancers notice; then
// it takes no more connections, and ends those that there are with their next answer ("Connection: close"), or after
// another -drain-delay without a request; answers what is left; and exits with 0. A second signal shortens the delays.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"blaze"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "blaze-serve:", err)
		os.Exit(1)
	}
}

func run() error {
	var options options
	address := flag.String("listen", "127.0.0.1:8000", "the `address` to listen on; with port 0 any free one")
	delay := flag.Duration("drain-delay", time.Second, "after SIGTERM, how long connections are still taken, and then how long those that rest are kept")
	timeout := flag.Duration("drain-timeout", 25*time.Second, "how long requests may take to end after that")
	flag.Int64Var(&options.maxBody, "max-body", 64<<20, "the most `bytes` in a request's body")
	flag.DurationVar(&options.timeout, "request-timeout", 30*time.Second, "the longest that a request may take in the engine")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	config, err := read(flag.Arg(0))
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))

	// Signals count from here on, so that none is lost while models load.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	engine, err := blaze.New(config, blaze.WithLogger(log))
	if err != nil {
		return err
	}
	defer engine.Close()
	bound, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	listener := drained(bound)
	service := newService(engine, options)
	server := &http.Server{
		Handler:           service,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ConnState:         service.count,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	select {
	case err := <-failed:
		return err
	case <-signals:
	}
	service.stopping.Store(true)
	pause(*delay, signals, nil)
	// Whoever is connected is told with the next answer to go elsewhere; closing a connection ourselves could lose a request
	// that is on its way. Whoever has just connected is still let in.
	service.noted()
	service.draining.Store(true)
	finish(listener)
	<-failed
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	pause(*timeout, signals, func() bool { return service.connections.Load() == 0 || service.quiet() > *delay })
	if err := errors.Join(server.Shutdown(ctx), engine.Shutdown(ctx)); err != nil {
		return fmt.Errorf("not all requests have ended: %w", err)
	}
	fmt.Printf("answered all of %d requests\n", service.accepted.Load())
	return nil
}

// finish closes a listener, if it can without losing who has just connected.
func finish(listener net.Listener) {
	if draining, ok := listener.(interface{ Finish() error }); ok {
		_ = draining.Finish()
	} else {
		_ = listener.Close()
	}
}

// pause waits, but no longer than until a signal comes, or what is waited for.
func pause(limit time.Duration, signals <-chan os.Signal, over func() bool) {
	for started := time.Now(); time.Since(started) < limit && (over == nil || !over()); {
		select {
		case <-time.After(min(limit, 10*time.Millisecond)):
		case <-signals:
			return
		}
	}
}

func read(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}
