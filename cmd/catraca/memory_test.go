package main

import "testing"

func TestRoomForGarbage(t *testing.T) {
	for _, tc := range []struct {
		live uint64
		want int
	}{{0, 100}, {4 << 20, 100}, {20 << 20, 100}, {40 << 20, 50}, {80 << 20, 25}, {128 << 20, 20}, {4 << 30, 20}} {
		if got := gcPercent(tc.live); got != tc.want {
			t.Errorf("%d MiB: %d percent, want %d", tc.live>>20, got, tc.want)
		}
	}
}
