package main

import (
	"net"
	"syscall"
	"time"
)

// emptyBacklog has the kernel complete no more connections, and gives the server the time to take those that are complete:
// closing the listener would reset them, though their clients may have sent requests.
func emptyBacklog(listener net.Listener) {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	if raw.Control(func(fd uintptr) { _ = syscall.Listen(int(fd), 0) }) == nil {
		time.Sleep(20 * time.Millisecond)
	}
}
