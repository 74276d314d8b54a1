package main

import (
	"errors"
	"net"
	"testing"
)

func TestWhoHasConnectedIsAcceptedAfterTheEnd(t *testing.T) {
	bound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, address := drained(bound), bound.Addr().String()
	const clients = 20
	for range clients { // the kernel completes them, though nobody accepts
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan error, 1)
	go func() {
		for served := 0; ; served++ {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) && served == clients {
				accepted <- nil
				return
			}
			var asked [1]byte
			if err == nil {
				_, err = conn.Read(asked[:])
			}
			if err != nil || asked != [1]byte{'?'} {
				accepted <- errors.Join(err, errors.New("a connection was lost"))
				return
			}
			conn.Close()
		}
	}()
	finish(listener)
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Fatal("the listener takes connections after its end")
	}
}
