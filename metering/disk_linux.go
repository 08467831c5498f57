package metering

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives f its size with blocks behind it, so that a disk that fills up later cannot fail a write into it.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, size)
	}
	return err
}

// syncData is fdatasync: the size never changes after allocate, so the inode's times are all it saves.
func syncData(f *os.File) error {
	err := unix.Fdatasync(int(f.Fd()))
	for errors.Is(err, unix.EINTR) {
		err = unix.Fdatasync(int(f.Fd()))
	}
	return err
}
