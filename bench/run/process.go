//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a program we started, pinned to a core; taskset becomes the program, so the pid is the program's own.
type process struct {
	cmd    *exec.Cmd
	addr   string
	log    string
	exited chan struct{}
}

func (b *bench) start(ctx context.Context, name, core string, env []string, program string, args ...string) (*process, io.Reader, error) {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", core, program}, args...)...)
	cmd.Env = append(cleanEnviron(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a bench that is killed leaves nothing behind
	dir := b.tmp
	if b.keep != "" {
		dir = b.keep
	}
	p := &process{cmd: cmd, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	file, err := os.Create(p.log)
	if err != nil {
		return nil, nil, err
	}
	cmd.Stderr = file
	out, in := io.Pipe()
	cmd.Stdout = in
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w; taskset comes with util-linux", program, err)
	}
	go func() {
		err := cmd.Wait()
		_ = file.Close()
		if err == nil {
			err = io.EOF
		}
		_ = in.CloseWithError(err)
		close(p.exited)
	}()
	return p, out, nil
}

// startListening starts a program that says "listening on host:port" first.
func (b *bench) startListening(ctx context.Context, name, core, program string, args ...string) (*process, error) {
	p, out, err := b.start(ctx, name, core, nil, program, args...)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		p.stop()
		return nil, fmt.Errorf("%s did not start: %w: %s", name, err, p.tail())
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	p.addr = addr
	return p, nil
}

// stop ends the process politely, then not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(2 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// tail gives the end of the log, for an error message.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-2000):])
}

// waitFor asks until the answer is yes, the process dies or the time is over.
func (p *process) waitFor(what string, limit time.Duration, ready func() bool) error {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if ready() {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended before %s: %s", what, p.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not happen within %s: %s", what, limit, p.tail())
}

// freePort asks the kernel for a port that nobody uses now.
func freePort() (string, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), errors.Join(ln.Close())
}
