//go:build unix && !linux

package metering

import "os"

// allocate gives f its size with blocks behind it, so that a disk that fills up later cannot fail a write into it.
func allocate(f *os.File, size int64) error { return writeZeros(f, size) }

func syncData(f *os.File) error { return f.Sync() }
