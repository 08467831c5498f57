//go:build linux

package main

import (
	"fmt"
	"time"
)

// phase is one kind of load, and what one unit of its work is called.
type phase struct {
	name, title, unit string
	args              []string
	warm              time.Duration
}

func allPhases(o options) []phase {
	return []phase{
		{"plain", "plain, 1 KiB, 64 connections, as fast as it goes", "request", []string{"-mode", "plain", "-body", "1024", "-conns", "64"}, o.warm},
		{
			"paced", "plain, 1 KiB, 64 connections, 4 000 a second: nothing queues, so nothing batches", "request",
			[]string{"-mode", "plain", "-body", "1024", "-conns", "64", "-rate", "4000"},
			o.warm,
		},
		{"prompt", "plain, 32 KiB prompt, 64 connections", "request", []string{"-mode", "plain", "-body", "32768", "-conns", "64"}, o.warm},
		{"image", "plain, 1 MiB image, 16 connections", "request", []string{"-mode", "image", "-body", "1048576", "-conns", "16"}, o.warm},
		{"stream", "200 streams, 50 chunks a second each, 100 chunks long", "chunk", []string{"-mode", "stream", "-conns", "200", "-chunks", "100", "-every", "20"}, o.warm},
		{"flat", "64 streams of 100 chunks as fast as they come", "chunk", []string{"-mode", "stream", "-conns", "64", "-chunks", "100", "-every", "0"}, o.warm},
		{
			"held", fmt.Sprintf("%d streams held open, a chunk every 2 s", o.held), "chunk",
			[]string{"-mode", "held", "-conns", fmt.Sprint(o.held), "-every", "2000"},
			max(o.warm, time.Duration(o.held)*time.Millisecond),
		},
	}
}

func phaseNames() []string {
	var names []string
	for _, p := range allPhases(options{}) {
		names = append(names, p.name)
	}
	return names
}
