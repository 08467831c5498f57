package proxy

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The states of a TCP connection (include/net/tcp_states.h) in which the peer still listens to us.
const (
	tcpEstablished = 1
	tcpSynRecv     = 3
)

// gone asks the kernel whether the peer has ended its side. The state tells it even when bytes of a further request
// lie unread in front of the end. A client that only closes its writing side looks gone, as it does to net/http.
func (c *clientConn) gone() bool {
	if c.raw == nil {
		return false
	}
	var state [8]byte // the kernel fills as much of struct tcp_info as there is room for; the first byte is the state
	n := uint32(len(state))
	var errno syscall.Errno
	err := c.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&n)), 0)
	})
	if err != nil {
		return true // closed on our side already
	}
	return errno == 0 && state[0] != tcpEstablished && state[0] != tcpSynRecv
}
