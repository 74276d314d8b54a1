package main

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// drainingListener is a listener that can end without losing anybody. The kernel completes connections before anyone accepts
// them; closing the listener resets those, though their clients may have sent requests already. Finish takes them all first.
type drainingListener struct {
	*net.TCPListener
	finishing atomic.Bool
	last      chan net.Conn // what Finish has taken; closed after the last of them
}

func drained(listener net.Listener) net.Listener {
	if tcp, ok := listener.(*net.TCPListener); ok {
		return &drainingListener{TCPListener: tcp, last: make(chan net.Conn, 4096)}
	}
	return listener
}

// Accept returns the next connection, after Finish those that it has taken, and then net.ErrClosed.
func (l *drainingListener) Accept() (net.Conn, error) {
	if !l.finishing.Load() {
		conn, err := l.TCPListener.Accept()
		if err == nil || !l.finishing.Load() {
			return conn, err
		}
	}
	if conn, ok := <-l.last; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// Finish closes the listener, but what has connected is still accepted.
func (l *drainingListener) Finish() error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	l.finishing.Store(true)
	_ = l.SetDeadline(time.Now()) // wakes Accept
	var taken []int
	err = errors.Join(raw.Control(func(fd uintptr) {
		_ = syscall.Listen(int(fd), 0) // no more than one waits from here on
		for {
			conn, _, err := syscall.Accept4(int(fd), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			if err == nil {
				taken = append(taken, conn)
			} else if err != syscall.EINTR && err != syscall.ECONNABORTED {
				break
			}
		}
		// Here and now: closing it waits until no goroutine is in Accept.
		_ = syscall.Shutdown(int(fd), syscall.SHUT_RD)
	}), l.TCPListener.Close())
	for _, fd := range taken {
		file := os.NewFile(uintptr(fd), "connection")
		if conn, err := net.FileConn(file); err == nil {
			l.last <- conn
		}
		_ = file.Close()
	}
	close(l.last)
	return err
}
