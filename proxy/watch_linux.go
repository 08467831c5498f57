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

// probe asks the kernel for the state of one connection. It stays with the connection, so that asking thousands of
// them several times a second allocates nothing.
type probe struct {
	raw   syscall.RawConn
	ask   func(fd uintptr)
	state [8]byte // the kernel fills as much of struct tcp_info as there is room for; the first byte is the state
	size  uint32
	errno syscall.Errno
}

func newProbe(raw syscall.RawConn) *probe {
	p := &probe{raw: raw}
	p.ask = func(fd uintptr) {
		p.size = uint32(len(p.state))
		_, _, p.errno = unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(&p.state)), uintptr(unsafe.Pointer(&p.size)), 0)
	}
	return p
}

// gone asks the kernel whether the peer has ended its side. The state tells it even when bytes of a further request
// lie unread in front of the end. A client that only closes its writing side looks gone, as it does to net/http.
func (p *probe) gone() bool {
	if err := p.raw.Control(p.ask); err != nil {
		return true // closed on our side already
	}
	return p.errno == 0 && p.state[0] != tcpEstablished && p.state[0] != tcpSynRecv
}
