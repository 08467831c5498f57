package openai

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// AudioDuration reads from its headers how long an audio file plays, rounded up to a millisecond: WAV, Ogg (Opus and
// Vorbis; WhatsApp's voice notes are Opus), MP3, MP4 (M4A) and FLAC. It is what a transcription is billed by when the answer
// is bare text and tells nothing. ok is false when the file is none of these or does not say.
func AudioDuration(file []byte) (ms int64, ok bool) {
	switch {
	case len(file) < 16:
		return 0, false
	case string(file[:4]) == "RIFF" && string(file[8:12]) == "WAVE":
		return wavDuration(file[12:])
	case string(file[:4]) == "OggS":
		return oggDuration(file)
	case string(file[:4]) == "fLaC":
		return flacDuration(file[4:])
	case string(file[4:8]) == "ftyp":
		return mp4Duration(file)
	}
	return mp3Duration(file)
}

// duration is units/perSecond in milliseconds, rounded up. What plays for more than a year is not believed.
func duration(units, perSecond uint64) (ms int64, ok bool) {
	const year = 366 * 24 * 3600 * 1000
	hi, lo := bits.Mul64(units, 1000)
	if perSecond == 0 || hi >= perSecond {
		return 0, false
	}
	q, rest := bits.Div64(hi, lo, perSecond)
	if rest > 0 {
		q++
	}
	if q == 0 || q > year {
		return 0, false
	}
	return int64(q), true
}

// wavDuration reads the chunks after the RIFF header: the format's bytes per second and the length of the data. A
// recorder that streams leaves the length at 0 or at its maximum; the data then reaches to the end of the file.
func wavDuration(b []byte) (ms int64, ok bool) {
	perSecond := uint64(0)
	for len(b) >= 8 {
		id, size := string(b[:4]), uint64(binary.LittleEndian.Uint32(b[4:8]))
		b = b[8:]
		switch id {
		case "fmt ":
			if len(b) >= 14 {
				perSecond = wavRate(b)
			}
		case "data":
			if size == 0 || size > uint64(len(b)) {
				size = uint64(len(b))
			}
			return duration(size, perSecond)
		}
		if size += size & 1; size > uint64(len(b)) {
			break
		}
		b = b[size:]
	}
	return 0, false
}

// wavRate is the bytes of a second, by the content of the format's chunk: those that it tells, or those that its samples
// make where that is less. Of plain samples both are the same, unless somebody wants to be billed for less.
func wavRate(b []byte) uint64 {
	told, samples, size := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint16(b[12:])
	return min(uint64(told), uint64(samples)*uint64(size))
}

// oggDuration takes the position that the last page tells, in samples, less what an Opus decoder drops at the start.
func oggDuration(b []byte) (ms int64, ok bool) {
	perSecond, skip := uint64(0), uint64(0)
	head := b[:min(len(b), 512)]
	if i := bytes.Index(head, []byte("OpusHead")); i >= 0 && i+12 <= len(head) {
		perSecond, skip = 48000, uint64(binary.LittleEndian.Uint16(head[i+10:i+12]))
	} else if i := bytes.Index(head, []byte("\x01vorbis")); i >= 0 && i+16 <= len(head) {
		perSecond = uint64(binary.LittleEndian.Uint32(head[i+12 : i+16]))
	}
	for end := len(b); ; {
		i := bytes.LastIndex(b[:end], []byte("OggS"))
		if i < 0 {
			return 0, false
		}
		end = i
		if len(b)-i < 14 || b[i+4] != 0 {
			continue
		}
		// A page on which no packet ends has the position -1.
		if at := binary.LittleEndian.Uint64(b[i+6 : i+14]); at != 1<<64-1 && at > skip {
			return duration(at-skip, perSecond)
		}
	}
}

// flacDuration reads the first block, which tells the rate in 20 bits and the samples in 36, with 8 bits between. Whoever
// streams leaves the samples at 0.
func flacDuration(b []byte) (ms int64, ok bool) {
	const info, head, before = 0, 4, 10
	if len(b) < head+before+8 || b[0]&0x7f != info {
		return 0, false
	}
	x := binary.BigEndian.Uint64(b[head+before:])
	return duration(x&(1<<36-1), x>>44)
}

// mp4Duration finds moov/mvhd, at the start of the file or at its end.
func mp4Duration(b []byte) (ms int64, ok bool) {
	moov, ok := mp4Box(b, "moov")
	if !ok {
		return 0, false
	}
	h, ok := mp4Box(moov, "mvhd")
	switch {
	case ok && len(h) >= 32 && h[0] == 1:
		return duration(binary.BigEndian.Uint64(h[24:32]), uint64(binary.BigEndian.Uint32(h[20:24])))
	case ok && len(h) >= 20 && h[0] == 0:
		return duration(uint64(binary.BigEndian.Uint32(h[16:20])), uint64(binary.BigEndian.Uint32(h[12:16])))
	}
	return 0, false
}

// mp4Box is the content of the first box called name.
func mp4Box(b []byte, name string) (content []byte, ok bool) {
	for len(b) >= 8 {
		size, head := uint64(binary.BigEndian.Uint32(b[:4])), uint64(8)
		switch {
		case size == 0:
			size = uint64(len(b))
		case size == 1 && len(b) >= 16:
			size, head = binary.BigEndian.Uint64(b[8:16]), 16
		}
		if size < head || size > uint64(len(b)) {
			return nil, false
		}
		if string(b[4:8]) == name {
			return b[head:size], true
		}
		b = b[size:]
	}
	return nil, false
}
