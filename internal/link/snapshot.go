package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A snapshot is a file of sealed frames:
//
//	magic, salt │ length, nonce + sealed + tag │ length, nonce + sealed + tag │ …
//
// The first frame is known, to tell a wrong secret from a damaged file. Each of the others holds records, as a length
// and bytes. What is learnt is appended every two seconds at most; when so much was appended that half of the file is
// of no more use, it is written anew beside and renamed into place. So 100 000 tenants cost what changes of them, and
// not 20 MB each time. A file that ends in the middle of a frame, or is damaged there, is good up to there.
const (
	snapshotMagic = "catraca snapshot 1\n"
	snapshotSalt  = 16
	frameTarget   = 256 << 10
	maxFrame      = 64 << 20
	flushEvery    = 2 * time.Second
	// keptMost bounds what waits to be written: on a disk that takes nothing it is dropped, and all is written anew
	// once it does.
	keptMost = 8 << 20
	// rewriteFrom is how much must have been appended for a file to be written anew.
	rewriteFrom = 4 << 20
)

var snapshotGreeting = []byte("catraca snapshot")

// Snapshot keeps on disk what a proxy has learnt, sealed. The directory is one process's.
type Snapshot struct {
	path    string
	secrets func() [][]byte // the first seals; all open
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	pending []byte // records that are in no file yet
	running bool
	lost    bool // records were dropped: only writing anew makes it whole
	stats   SnapshotStats

	// Of Run and Load alone.
	file     *os.File
	aead     cipher.AEAD
	secret   []byte
	frames   uint64
	base     int64 // size when it was last written anew
	size     int64
	failing  bool
	unopened bool // there is a file that could not be opened: it is moved aside and not written over
}

// SnapshotStats is a look at a snapshot, for metrics.
type SnapshotStats struct {
	Bytes     int64
	WrittenAt time.Time // zero: not yet by this process
	Rewrites  int64
	Failures  int64
}

// ErrSealed says that there is a snapshot and none of the secrets opens it.
var ErrSealed = errors.New("it is sealed with another secret, or damaged")

// NewSnapshot makes a snapshot at a path. secrets are asked for at each write, because a certificate's key is renewed;
// the first seals, and all open.
func NewSnapshot(path string, secrets func() [][]byte, log *slog.Logger) *Snapshot {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshot{path: path, secrets: secrets, log: log, wake: make(chan struct{}, 1)}
}

// Keep takes down a record. It does not wait for the disk. Before Run it does nothing: what is recalled is on disk.
func (s *Snapshot) Keep(record []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running || s.lost {
		return
	}
	s.pending = append(binary.AppendUvarint(s.pending, uint64(len(record))), record...)
	if len(s.pending) >= frameTarget {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	if len(s.pending) > keptMost {
		s.pending, s.lost = nil, true
	}
}

// Stats tells what is on disk.
func (s *Snapshot) Stats() SnapshotStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func sealer(secret, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, snapshotMagic, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// place is what a frame is sealed to: its number, so that none can be left out or moved.
func place(frame uint64) []byte { return binary.BigEndian.AppendUint64(nil, frame) }

// Load reads what is on disk, record by record, and counts them. It is for before Run. No file is no error.
func (s *Snapshot) Load(recall func(record []byte) error) (n int, err error) {
	if half, err := filepath.Glob(s.path + ".new-*"); err == nil { // of a process that died while it wrote
		for _, name := range half {
			_ = os.Remove(name)
		}
	}
	file, err := os.OpenFile(s.path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open the last good configuration: %w", err)
	}
	r := bufio.NewReaderSize(file, 64<<10)
	if err := s.open(r); err != nil {
		s.unopened = true
		return 0, fmt.Errorf("the last good configuration in %s cannot be used: %w", s.path, errors.Join(err, file.Close()))
	}
	for {
		frame, err := s.next(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			var some int
			some, err = recallFrame(frame, recall)
			n += some
		}
		if err != nil {
			s.log.Warn("the end of the last good configuration is damaged; it is good up to there", "records", n, "error", err)
			_ = file.Close()
			return n, nil // written anew at the first change
		}
	}
	s.file, s.base = file, s.size
	s.mu.Lock()
	s.stats.Bytes = s.size
	s.mu.Unlock()
	return n, nil
}

// open reads the head and finds the secret that opens it.
func (s *Snapshot) open(r *bufio.Reader) error {
	head := make([]byte, len(snapshotMagic)+snapshotSalt)
	if _, err := io.ReadFull(r, head); err != nil || !bytes.HasPrefix(head, []byte(snapshotMagic)) {
		return errors.New("it is not one, or of another release")
	}
	sealed, err := readFrame(r)
	if err != nil {
		return ErrSealed
	}
	for _, secret := range s.secrets() {
		aead, err := sealer(secret, head[len(snapshotMagic):])
		if err != nil {
			return err
		}
		if greeting, err := aead.Open(nil, nil, sealed, place(0)); err == nil && bytes.Equal(greeting, snapshotGreeting) {
			s.aead, s.secret, s.frames, s.size = aead, secret, 1, int64(len(head)+4+len(sealed))
			return nil
		}
	}
	return ErrSealed
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	var length [4]byte
	if n, err := io.ReadFull(r, length[:]); err != nil {
		if n == 0 {
			return nil, io.EOF
		}
		return nil, io.ErrUnexpectedEOF
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return nil, errors.New("a frame of impossible length")
	}
	sealed := make([]byte, size)
	if _, err := io.ReadFull(r, sealed); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return sealed, nil
}

func (s *Snapshot) next(r *bufio.Reader) ([]byte, error) {
	sealed, err := readFrame(r)
	if err != nil {
		return nil, err
	}
	frame, err := s.aead.Open(nil, nil, sealed, place(s.frames))
	if err != nil {
		return nil, errors.New("a frame was altered")
	}
	s.frames++
	s.size += int64(4 + len(sealed))
	return frame, nil
}

func recallFrame(frame []byte, recall func([]byte) error) (n int, err error) {
	for len(frame) > 0 {
		size, w := binary.Uvarint(frame)
		if w <= 0 || size > uint64(len(frame)-w) {
			return n, errors.New("a record of impossible length")
		}
		if err := recall(frame[w : w+int(size)]); err != nil {
			return n, err
		}
		frame, n = frame[w+int(size):], n+1
	}
	return n, nil
}

// Run writes what Keep takes down until ctx ends, and then the rest. dump gives all there is to keep, for when the file
// is written anew.
func (s *Snapshot) Run(ctx context.Context, dump func(emit func(record []byte))) error {
	s.mu.Lock()
	s.running = true
	s.lost = s.file == nil // between Load and now nothing was taken down
	s.mu.Unlock()
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		last := false
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		case <-s.wake:
		}
		err := s.flush(dump)
		switch {
		case err != nil && !s.failing:
			s.log.Warn("the last good configuration cannot be written; a restart would find an older one", "error", err)
		case err == nil && s.failing:
			s.log.Info("the last good configuration is written again")
		}
		s.failing = err != nil
		if last {
			s.mu.Lock()
			s.running = false
			s.mu.Unlock()
			if s.file != nil {
				return s.file.Close()
			}
			return nil
		}
	}
}

// flush appends what was taken down, or writes all anew when that is due.
func (s *Snapshot) flush(dump func(func([]byte))) error {
	secrets := s.secrets()
	s.mu.Lock()
	pending, lost := s.pending, s.lost
	anew := s.file == nil || lost || s.size-s.base+int64(len(pending)) > max(s.base, rewriteFrom) ||
		len(secrets) > 0 && !bytes.Equal(secrets[0], s.secret)
	if !anew && len(pending) == 0 {
		s.mu.Unlock()
		return nil
	}
	// From here on records are taken down again, for behind what is written now.
	s.pending, s.lost = nil, false
	s.mu.Unlock()
	var err error
	if anew {
		err = s.rewrite(secrets, dump)
	} else {
		err = s.append(pending)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.stats.Failures++
		s.pending, s.lost = nil, true
		return err
	}
	s.stats.Bytes, s.stats.WrittenAt = s.size, time.Now()
	return nil
}

func (s *Snapshot) append(pending []byte) error {
	for len(pending) > 0 {
		// A frame ends between records.
		end := 0
		for end < len(pending) && end < frameTarget {
			size, n := binary.Uvarint(pending[end:])
			end += n + int(size)
		}
		written, err := writeFrame(s.file, s.aead, s.frames, pending[:end], s.size)
		if err != nil {
			return err
		}
		s.frames, s.size, pending = s.frames+1, s.size+written, pending[end:]
	}
	return s.file.Sync()
}

func writeFrame(w io.WriterAt, aead cipher.AEAD, no uint64, frame []byte, at int64) (int64, error) {
	sealed := aead.Seal(make([]byte, 4, 4+len(frame)+aead.Overhead()), nil, frame, place(no))
	binary.BigEndian.PutUint32(sealed, uint32(len(sealed)-4))
	n, err := w.WriteAt(sealed, at)
	return int64(n), err
}

// rewrite makes a file of all there is, and puts it in the place of the old one once it is on disk.
func (s *Snapshot) rewrite(secrets [][]byte, dump func(func([]byte))) error {
	if len(secrets) == 0 {
		return errors.New("there is no secret to seal it with")
	}
	salt := make([]byte, snapshotSalt)
	rand.Read(salt)
	aead, err := sealer(secrets[0], salt)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // when it was renamed there is none
	next := Snapshot{file: temp, aead: aead}
	if err := next.fill(salt, dump); err != nil {
		return errors.Join(err, temp.Close())
	}
	if s.unopened {
		// Whoever corrects a mistyped token finds it again.
		if err := os.Rename(s.path, s.path+".unreadable"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, temp.Close())
		}
	}
	if err := os.Rename(temp.Name(), s.path); err != nil {
		return errors.Join(err, temp.Close())
	}
	syncDirectory(filepath.Dir(s.path))
	if s.file != nil {
		_ = s.file.Close()
	}
	s.file, s.aead, s.secret, s.unopened = temp, aead, secrets[0], false
	s.frames, s.size, s.base = next.frames, next.size, next.size
	s.mu.Lock()
	s.stats.Rewrites++
	s.mu.Unlock()
	return nil
}

func (s *Snapshot) fill(salt []byte, dump func(func([]byte))) error {
	n, err := s.file.WriteAt(append([]byte(snapshotMagic), salt...), 0)
	s.size = int64(n)
	write := func(frame []byte) {
		if err == nil {
			var written int64
			written, err = writeFrame(s.file, s.aead, s.frames, frame, s.size)
			s.frames, s.size = s.frames+1, s.size+written
		}
	}
	write(snapshotGreeting)
	var frame []byte
	dump(func(record []byte) {
		frame = append(binary.AppendUvarint(frame, uint64(len(record))), record...)
		if len(frame) >= frameTarget {
			write(frame)
			frame = frame[:0]
		}
	})
	if len(frame) > 0 {
		write(frame)
	}
	if err == nil {
		err = s.file.Sync()
	}
	return err
}

// syncDirectory makes a new name last. Where that cannot be done the file is there all the same, but for a power loss.
func syncDirectory(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
