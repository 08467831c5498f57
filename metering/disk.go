package metering

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// disk is what the spool needs of a file system. There is one real one; tests have others, which fail, fill up and lose
// their power.
type disk interface {
	// lock makes the directory if need be and takes it for this process, until what it returns is closed.
	lock(dir string) (io.Closer, error)
	list(dir string) ([]listed, error)
	// create makes a file of its final size, with the blocks behind it. Its name is durable after syncNames.
	create(path string, size int64) (segmentFile, error)
	open(path string) (readFile, error)
	remove(path string) error
	rename(from, to string) error
	syncNames(dir string) error
	// sync brings to the disk what a file holds that an earlier process wrote.
	sync(path string) error
	// free is how many bytes of the volume more files may have.
	free(dir string) (int64, error)
}

// listed is a file of the spool's directory.
type listed struct {
	name     string
	size     int64
	modified time.Time
	regular  bool
}

// segmentFile is what the spool needs of a file it writes to.
type segmentFile interface {
	io.WriterAt
	Sync() error
	Close() error
}

type readFile interface {
	io.ReaderAt
	io.Closer
}

// realDisk is the operating system's.
type realDisk struct{}

// lock takes LOCK in the directory. The kernel lets go of it when the process ends, however it ends.
func (realDisk) lock(dir string) (io.Closer, error) {
	err := os.MkdirAll(dir, 0o700)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("spool directory %s cannot be written by user %d: make that user its owner, or choose another: %w",
			dir, os.Geteuid(), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		who := make([]byte, 32)
		n, _ := f.Read(who)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("spool directory %s belongs to process %.32q already: give each process its own", dir, who[:n])
		}
		return nil, fmt.Errorf("spool directory %s cannot be locked: %w", dir, err)
	}
	pid := fmt.Appendf(nil, "%d", os.Getpid())
	if _, err = f.WriteAt(pid, 0); err == nil {
		err = f.Truncate(int64(len(pid)))
	}
	if err != nil && !isNoSpace(err) { // the number is a courtesy
		return nil, errors.Join(fmt.Errorf("spool directory %s: %w", dir, err), f.Close())
	}
	return f, nil
}

func (realDisk) list(dir string) ([]listed, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := make([]listed, 0, len(entries))
	for _, entry := range entries {
		l := listed{name: entry.Name()}
		if info, err := entry.Info(); err == nil {
			l.size, l.modified, l.regular = info.Size(), info.ModTime(), info.Mode().IsRegular()
		}
		all = append(all, l)
	}
	return all, nil
}

func (realDisk) create(path string, size int64) (segmentFile, error) { return createFile(path, size) }

func (realDisk) open(path string) (readFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // and not a nil *os.File that is no nil readFile
	}
	return f, nil
}

func (realDisk) remove(path string) error     { return os.Remove(path) }
func (realDisk) rename(from, to string) error { return os.Rename(from, to) }

func (realDisk) sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(syncData(f), f.Close())
}

// syncNames makes names durable: without it a file may be gone after a power loss though its blocks are not.
func (realDisk) syncNames(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (realDisk) free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// diskFile is a segment on a real disk.
type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return syncData(f.File) }

// createFile makes a file of its final size.
func createFile(path string, size int64) (segmentFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err = allocate(f, size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return diskFile{f}, nil
}

// writeZeros stands in where a file system cannot allocate.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// isNoSpace tells a disk or a quota that is full from one that fails.
func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}
