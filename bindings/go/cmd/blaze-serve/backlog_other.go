//go:build !linux

package main

import "net"

// emptyBacklog does nothing where a listener's backlog cannot be changed.
func emptyBacklog(net.Listener) {}
