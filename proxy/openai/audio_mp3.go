package openai

import (
	"bytes"
	"encoding/binary"
)

// An mp3Frame is what the four bytes of a frame's header say.
type mp3Frame struct {
	size    int // in bytes, the header included
	rate    int // samples a second
	samples int // in the frame
	side    int // bytes of side information, behind which a Xing header stands
}

// mp3Rates are the kilobits per second of layers I, II and III of MPEG 1, and of layers I and II/III of MPEG 2.
var mp3Rates = [5][16]int{
	{0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448},
	{0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384},
	{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},
	{0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256},
	{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},
}

// readMP3Frame reads the frame header that b starts with.
func readMP3Frame(b []byte) (f mp3Frame, ok bool) {
	if len(b) < 4 || b[0] != 0xff || b[1]&0xe0 != 0xe0 {
		return f, false
	}
	version, layer := b[1]>>3&3, 4-int(b[1]>>1&3) // version 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
	rateIndex := b[2] >> 2 & 3
	if version == 1 || layer == 4 || rateIndex == 3 {
		return f, false
	}
	table, shift := layer-1, 0
	if version != 3 {
		table, shift = min(layer+2, 4), 1
		if version == 0 {
			shift = 2
		}
	}
	kilobits := mp3Rates[table][b[2]>>4]
	f.rate = [3]int{44100, 48000, 32000}[rateIndex] >> shift
	if kilobits == 0 {
		return f, false
	}
	padding := int(b[2] >> 1 & 1)
	switch {
	case layer == 1:
		f.samples, f.size = 384, (12*kilobits*1000/f.rate+padding)*4
	case layer == 3 && version != 3:
		f.samples, f.size = 576, 72*kilobits*1000/f.rate+padding
	default:
		f.samples, f.size = 1152, 144*kilobits*1000/f.rate+padding
	}
	mono := b[3]>>6 == 3
	switch {
	case version == 3 && !mono:
		f.side = 32
	case version == 3 || !mono:
		f.side = 17
	default:
		f.side = 9
	}
	return f, true
}

// mp3Duration counts the frames: those that a Xing header in the first tells, else each of them. A file is believed to
// be MP3 when it has an ID3 tag, or two frames that follow each other.
func mp3Duration(b []byte) (ms int64, ok bool) {
	tagged := false
	for len(b) >= 10 && string(b[:3]) == "ID3" && b[6]|b[7]|b[8]|b[9] < 0x80 {
		n := 10 + (int(b[6])<<21 | int(b[7])<<14 | int(b[8])<<7 | int(b[9]))
		b, tagged = b[min(n, len(b)):], true
	}
	b = bytes.TrimLeft(b, "\x00")
	first, ok := readMP3Frame(b)
	if !ok {
		return 0, false
	}
	if n, ok := xingFrames(b, first); ok {
		return duration(uint64(n)*uint64(first.samples), uint64(first.rate))
	}
	frames := uint64(0)
	for {
		f, ok := readMP3Frame(b)
		if !ok || f.rate != first.rate || f.size > len(b) {
			break
		}
		frames++
		b = b[f.size:]
	}
	if frames < 2 && !tagged {
		return 0, false
	}
	return duration(frames*uint64(first.samples), uint64(first.rate))
}

// xingFrames is the number of frames that an encoder wrote into the first one, which carries no sound itself.
func xingFrames(b []byte, f mp3Frame) (n uint32, ok bool) {
	at := 4 + f.side
	if len(b) < at+12 {
		return 0, false
	}
	if name := string(b[at : at+4]); name != "Xing" && name != "Info" || b[at+7]&1 == 0 {
		return 0, false
	}
	n = binary.BigEndian.Uint32(b[at+8 : at+12])
	return n, n > 0
}
