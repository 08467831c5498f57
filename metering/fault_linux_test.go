package metering

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestSpoolOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs to be had: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	o := SpoolOptions{Dir: filepath.Join(dir, "spool"), SegmentBytes: 64 << 10}
	s := openSpool(t, o)
	fillAndEnd(t, s)
	left := s.Stats().Depth
	abandonSpool(s)

	// The next process finds no room for a segment of its own, and ships what there is.
	if err := os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the rest: %v", err)
	}
	o.SegmentBytes *= 8
	s = openSpool(t, o)
	e := usualEvent(0)
	if err := s.Open(&e); !errors.Is(err, ErrSpoolFull) {
		t.Fatalf("got %v", err)
	}
	events := takeAll(t, s)
	if len(events) != left {
		t.Fatalf("%d of %d are sent", len(events), left)
	}
	s.Acknowledge(events[0].Incarnation, Ranges{{1, uint64(left)}})
	s.trim()
	s.Close(mustOpen(t, s))
	shutdown(t, s)
}
