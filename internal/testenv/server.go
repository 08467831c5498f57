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

	recipe   *recipe
	dir      string
	port     int
	mu       sync.Mutex // held while what runs is exchanged
	cmd      *exec.Cmd
	lifeline *os.File      // the server stops when this closes, as it does when our process ends
	exited   chan struct{} // closed when the server is gone
	removed  bool          // by Stop
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
	s := &Server{recipe: r, dir: dir, port: port}
	if err := s.launch(); err != nil {
		return nil, err
	}
	return s, nil
}

// launch starts the server in its folder and on its port.
func (s *Server) launch() error {
	r := s.recipe
	watched, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	defer watched.Close()
	log, err := os.Create(filepath.Join(s.dir, "server.log"))
	if err != nil {
		lifeline.Close()
		return err
	}
	defer log.Close()

	cmd := exec.Command("/bin/sh", append([]string{"-c", underLifeline, "sh"}, r.args(s.port)...)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "dir="+s.dir, "prepare="+r.prepare, "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = log, log // never our own: `go test` would wait for whoever holds them
	cmd.ExtraFiles = []*os.File{watched}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.as, Setpgid: true} // a ^C is for the tests alone
	if err := cmd.Start(); err != nil {
		lifeline.Close()
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.lifeline, s.exited = cmd, lifeline, exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
	if err := s.await(r.ready, s.port); err != nil {
		s.end(syscall.SIGINT)
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w; it said:\n%s", err, tail(said, 2000))
	}
	return nil
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return
	}
	s.removed = true
	s.end(syscall.SIGINT)
	os.RemoveAll(s.dir)
}

// Halt ends the server in the regular way; Restart brings it back.
func (s *Server) Halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(syscall.SIGINT)
}

// Kill ends the server as a crash would, with no time for anything; Restart brings it back.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(syscall.SIGKILL)
}

// Pause stops the server from doing anything, while its connections stay open; Resume lets it go on. A Postgres goes on
// in part: its sessions are processes of their own.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone() {
		return fmt.Errorf("%s does not run", s.recipe.name)
	}
	return syscall.Kill(s.cmd.Process.Pid, sig)
}

// Restart ends the server if it runs and starts it again, on the same port and with the files that it had.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return fmt.Errorf("restart %s: it was stopped for good", s.recipe.name)
	}
	s.end(syscall.SIGINT)
	// What a killed server left behind, processes and shared memory, needs a moment to go.
	deadline := time.Now().Add(startDeadline)
	for {
		err := s.launch()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("restart %s: %w", s.recipe.name, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (s *Server) gone() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// end stops the process, or what prepares it, and waits. The files stay. The watchdog is of the same group and ends too:
// it has no more to do.
func (s *Server) end(sig syscall.Signal) {
	if s.lifeline == nil {
		return // ended before
	}
	group := -s.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGCONT) // one that is paused would not hear
	syscall.Kill(group, sig)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		syscall.Kill(group, syscall.SIGKILL)
		<-s.exited
	}
	s.lifeline.WriteString("stopped\n")
	s.lifeline.Close()
	s.lifeline = nil
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
