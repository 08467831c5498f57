package main

import "testing"

func TestRoomForGarbage(t *testing.T) {
	for _, tc := range []struct {
		live uint64
		want int
	}{{0, 100}, {4 << 20, 100}, {32 << 20, 100}, {64 << 20, 50}, {92 << 20, 34}, {128 << 20, 25}, {4 << 30, 25}} {
		if got := gcPercent(tc.live); got != tc.want {
			t.Errorf("%d MiB: %d percent, want %d", tc.live>>20, got, tc.want)
		}
	}
}
