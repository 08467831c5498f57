package testenv

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is a database server on a free loopback port, with its files in a folder of its own.
type Server struct {
	URL string

	dir      string
	cmd      *exec.Cmd
	lifeline *os.File      // the server stops when this closes, as it does when our process ends
	exited   chan struct{} // closed when the server is gone
	stop     sync.Once
}

// startDeadline is generous: a machine that is busy with other packages' tests may need seconds for what takes 0.2 s.
const startDeadline = 60 * time.Second

// underLifeline runs $prepare and then "$@". Beside them it has a watchdog that waits for the end of file 3. A written
// line means that the server was stopped in the regular way. Otherwise whoever started it is gone, perhaps by kill -9:
// the watchdog stops what runs and removes its files. It is started from a subshell that ends, so the server has no
// child it knows nothing of. The signal goes to the process group, because prepare's program is a child of the shell.
const underLifeline = `
server=$$
(
  (
    read -r stopped <&3 && exit
    trap '' INT
    kill -INT -$server
    for i in 1 2 3 4 5 6 7 8 9 10; do
      kill -0 $server 2>/dev/null || break
      sleep 0.2
    done
    kill -KILL $server 2>/dev/null
    rm -rf "$dir"
  ) &
)
exec 3<&-
eval "$prepare" || exit
exec "$@"
`

// recipe says how a server is made. All but ready run in its folder.
type recipe struct {
	name    string
	as      *syscall.Credential // nil: ourselves
	prepare string              // shell; run before the server, again when the server could not be started
	args    func(port int) []string
	ready   func(ctx context.Context, port int) error // says whether it answers yet
}

// start makes a folder and starts a server in it.
func (r *recipe) start() (*Server, error) {
	dir, err := os.MkdirTemp("", "catraca-"+r.name+"-")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", r.name, err)
	}
	if r.as != nil {
		err = os.Chown(dir, int(r.as.Uid), int(r.as.Gid))
	}
	for attempt := 0; err == nil; attempt++ {
		// Another process may take the port before the server does. That is rare; three in a row mean something else.
		var s *Server
		if s, err = r.try(dir); err == nil {
			return s, nil
		}
		if attempt < 2 {
			err = nil
		}
	}
	os.RemoveAll(dir)
	return nil, fmt.Errorf("start %s: %w", r.name, err)
}

func (r *recipe) try(dir string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	watched, lifeline, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer watched.Close()
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command("/bin/sh", append([]string{"-c", underLifeline, "sh"}, r.args(port)...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "dir="+dir, "prepare="+r.prepare, "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = log, log // never our own: `go test` would wait for whoever holds them
	cmd.ExtraFiles = []*os.File{watched}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.as, Setpgid: true} // a ^C is for the tests alone
	if err := cmd.Start(); err != nil {
		lifeline.Close()
		return nil, err
	}
	s := &Server{dir: dir, cmd: cmd, lifeline: lifeline, exited: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(s.exited)
	}()
	if err := s.await(r.ready, port); err != nil {
		s.end()
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w; it said:\n%s", err, tail(said, 2000))
	}
	return s, nil
}

func (s *Server) await(ready func(context.Context, int) error, port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	for {
		err := ready(ctx, port)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended at once: %v", s.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server and removes its files. It may be called more than once.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.end()
		os.RemoveAll(s.dir)
	})
}

// end stops the process, or what prepares it, and waits. The files stay. The watchdog is of the same group and ends too:
// it has no more to do.
func (s *Server) end() {
	group := -s.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGINT)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		syscall.Kill(group, syscall.SIGKILL)
		<-s.exited
	}
	s.lifeline.WriteString("stopped\n")
	s.lifeline.Close()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// find looks for a folder that holds all programs: on the PATH first, then where distributions put them, newest
// version first.
func find(programs []string, patterns ...string) (string, bool) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return versionIn(b) - versionIn(a) })
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		missing := slices.ContainsFunc(programs, func(p string) bool {
			_, err := exec.LookPath(filepath.Join(dir, p))
			return err != nil
		})
		if !missing && filepath.IsAbs(dir) {
			return dir, true
		}
	}
	return "", false
}

// versionIn reads the last number in a path: 15 in /usr/lib/postgresql/15/bin.
func versionIn(path string) int {
	numbers := strings.FieldsFunc(path, func(r rune) bool { return r < '0' || r > '9' })
	if len(numbers) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(numbers[len(numbers)-1])
	return n
}

// postgresUser is who the Postgres programs must run as: they refuse root. Nil means ourselves.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("Postgres does not run as root and there is no user postgres: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func tail(b []byte, n int) []byte {
	return bytes.TrimSpace(b[max(0, len(b)-n):])
}
