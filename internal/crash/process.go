//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one of Catraca's, on ports that stay its own from one life to the next.
type process struct {
	name  string
	bin   string
	args  []string
	env   []string
	dir   string // its working directory; its log is in logs
	logs  string
	ready string // answers 200 when it serves
	cradle

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	lives  int
}

// cradle starts children from one thread that never ends: a parent-death signal is sent when the thread that started a
// child ends, and Go ends threads when it likes.
type cradle struct{ births chan birth }

type birth struct {
	cmd *exec.Cmd
	err chan error
}

func newCradle() cradle {
	c := cradle{births: make(chan birth)}
	go func() {
		runtime.LockOSThread()
		for b := range c.births {
			b.err <- b.cmd.Start()
		}
	}()
	return c
}

func (c cradle) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a ^C is for the harness alone
	b := birth{cmd, make(chan error)}
	c.births <- b
	return <-b.err
}

// start runs the process; wait for it with await.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(p.logs, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.bin, p.args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.env, log, log
	if err := p.cradle.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	p.lives++
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return nil
}

// await waits until the process serves.
func (p *process) await(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		code, err := status(ctx, p.ready)
		if err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-p.gone():
			return fmt.Errorf("%s ended: its log says\n%s", p.name, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve after %s (%v, status %d): its log says\n%s", p.name, limit, err, code, p.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func status(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (p *process) lastWords() []byte {
	text, err := os.ReadFile(filepath.Join(p.logs, p.name+".log"))
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(text[max(0, len(text)-2000):])
}

func (p *process) gone() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// signal sends one to the process while it lives.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New(p.name + " was never started")
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s has ended by itself", p.name)
	default:
		return p.cmd.Process.Signal(sig)
	}
}

// kill ends the process with no time for anything.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.gone()
	return nil
}

// stop ends the process in the regular way, and by force when it takes too long. It is for the end of a scenario.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.signal(syscall.SIGCONT) // an error says that it has ended
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.gone():
	case <-time.After(40 * time.Second):
		_ = p.signal(syscall.SIGKILL)
		<-p.gone()
	}
}

// given are the addresses that scenarios of this run have: several run at once, and one's proxy must not find another's
// at its address.
var given sync.Map

// freeAddr is an address that nobody listens on and nobody of this run was given before.
func freeAddr() (string, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			return "", err
		}
		if _, again := given.LoadOrStore(addr, true); !again {
			return addr, nil
		}
	}
}

// pause stops the process where it is, with its connections open; resume lets it go on.
func (p *process) pause() error  { return p.signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.signal(syscall.SIGCONT) }
