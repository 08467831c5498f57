package upstream

import (
	"errors"
	"net"
	"testing"

	"github.com/valyala/fasthttp"
)

// Whether an upstream may have worked on a request is known by whether a byte of it was written.
func TestSent(t *testing.T) {
	var x Exchange
	var h fasthttp.ResponseHeader
	var c Canceller
	p := listen(t, func(n int64, c *peerConn) {
		for {
			if _, _, err := c.request(); err != nil {
				return
			}
			if n == 2 {
				return // without an answer
			}
			c.say(ok)
		}
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	c.Begin()
	if err := x.Do(tg, post("{}"), &c, &h); err != nil || !x.Sent {
		t.Fatalf("answered: %v, sent %t", err, x.Sent)
	}
	x.Finish()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	c.Begin()
	if err := x.Do(target(t, "http://"+ln.Addr().String(), testTimeouts), post("{}"), &c, &h); !errors.Is(err, ErrConnect) || x.Sent {
		t.Errorf("not reached: %v, sent %t", err, x.Sent)
	}

	tg.CloseIdle(0)
	c.Begin()
	if err := x.Do(tg, post("{}"), &c, &h); !errors.Is(err, ErrTruncated) || !x.Sent {
		t.Errorf("no answer: %v, sent %t", err, x.Sent)
	}

	c.Begin()
	c.Cancel()
	if err := x.Do(tg, post("{}"), &c, &h); err != ErrCancelled || x.Sent {
		t.Errorf("cancelled before: %v, sent %t", err, x.Sent)
	}

	// A large body goes out as a vector.
	c.Begin()
	if err := x.Do(tg, post(`"`+string(make([]byte, inOneWrite))+`"`), &c, &h); err != nil || !x.Sent {
		t.Errorf("large: %v, sent %t", err, x.Sent)
	}
	x.Finish()
}
