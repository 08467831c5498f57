//go:build unix && !linux

package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// probe looks at one connection.
type probe struct{ raw syscall.RawConn }

func newProbe(raw syscall.RawConn) *probe { return &probe{raw} }

// gone looks whether the next thing to read is the end. Bytes of a further request hide it until they are read: on
// Linux, where Catraca is deployed, the state of the connection is asked for instead.
func (p *probe) gone() bool {
	ended := false
	err := p.raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = (n == 0 && err == nil) || err == unix.ECONNRESET || err == unix.EPIPE
	})
	return err != nil || ended
}
