package openai

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// The files here are built by the letter of their formats.

func le32(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }
func le64(v uint64) string { return string(binary.LittleEndian.AppendUint64(nil, v)) }
func be32(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }
func be64(v uint64) string { return string(binary.BigEndian.AppendUint64(nil, v)) }

func wav(perSecond, size uint32, data int) string {
	return "RIFF" + le32(36+size) + "WAVE" + "LIST" + le32(3) + "abc\x00" +
		"fmt " + le32(16) + "\x01\x00\x01\x00" + le32(16000) + le32(perSecond) + "\x02\x00\x10\x00" +
		"data" + le32(size) + strings.Repeat("\x00", data)
}

func oggPage(position uint64, payload string) string {
	return "OggS\x00\x00" + le64(position) + le32(7) + le32(0) + le32(0) + "\x01" + string(rune(len(payload))) + payload
}

func mp4(box ...string) string {
	return be32(16) + "ftypM4A \x00\x00\x00\x00" + strings.Join(box, "")
}

func mp4Part(name, content string) string { return be32(uint32(8+len(content))) + name + content }

// flac is the head of a file of 44.1 kHz, 16 bits and two channels.
func flac(samples uint64) string {
	return "fLaC\x00\x00\x00\x22" + strings.Repeat("\x10", 10) + be64(44100<<44|1<<41|15<<36|samples) + strings.Repeat("m", 16)
}

// mp3Frames is n frames of MPEG 1 layer III, 128 kbit/s, 44.1 kHz, stereo.
func mp3Frames(n int) string {
	return strings.Repeat("\xff\xfb\x90\x00"+strings.Repeat("\x00", 413), n)
}

func TestAudioDuration(t *testing.T) {
	f := func(name, file string, want int64) {
		t.Helper()
		ms, ok := AudioDuration([]byte(file))
		if ok != (want > 0) || ms != want {
			t.Errorf("%s: %d ms, %v; want %d", name, ms, ok, want)
		}
	}
	f("empty", "", 0)
	f("text", "this is no audio at all, but long enough", 0)

	f("wav", wav(32000, 48000, 48000), 1500)
	f("wav, one sample more", wav(32000, 48002, 48002), 1501)
	f("wav whose recorder did not go back", wav(32000, 0xffffffff, 48000), 1500)
	f("wav of length 0 in its head", wav(32000, 0, 16000), 500)
	f("wav of 0 bytes a second", wav(0, 48000, 48000), 0)
	f("wav without data", wav(32000, 48000, 48000)[:50], 0)

	head := oggPage(0, "OpusHead\x01\x01"+"\x38\x01"+le32(48000)+"\x00\x00\x00")
	f("opus", head+oggPage(960, "x")+oggPage(48000*3+312, "y"), 3000)
	f("opus, last page without a packet's end", head+oggPage(48000*3+312, "y")+oggPage(1<<64-1, "z"), 3000)
	f("opus with the page's mark in the sound", head+oggPage(48000*3+312, "y OggS"), 3000)
	f("opus, head only", head, 0)
	f("opus, absurd position", head+oggPage(1<<63, "y"), 0)
	f("vorbis", oggPage(0, "\x01vorbis"+le32(0)+"\x01"+le32(44100)+le32(0)+le32(0)+le32(0))+oggPage(44100*2, "y"), 2000)
	f("ogg of another codec", oggPage(0, "Speex   ")+oggPage(44100*2, "y"), 0)

	mvhd := mp4Part("mvhd", "\x00\x00\x00\x00"+be32(1)+be32(2)+be32(1000)+be32(8470)+be64(0))
	f("m4a", mp4(mp4Part("moov", mvhd)), 8470)
	f("m4a, index at the end", mp4(mp4Part("mdat", strings.Repeat("x", 100)), mp4Part("moov", mp4Part("free", "x")+mvhd)), 8470)
	f("m4a, 64-bit times", mp4(mp4Part("moov", mp4Part("mvhd", "\x01\x00\x00\x00"+be64(1)+be64(2)+be32(44100)+be64(44100*60)+be64(0)))), 60000)
	f("m4a, large box before", mp4(be32(1)+"mdat"+be64(20)+"abcd", mp4Part("moov", mvhd)), 8470)
	f("m4a, box to the end of the file", mp4(be32(0)+"moov"+mvhd), 8470)
	f("m4a without index", mp4(mp4Part("mdat", "x")), 0)
	f("m4a with a box of no size", mp4(be32(4)+"moov"), 0)
	f("m4a with a box that is too long", mp4(be32(1)+"mdat"+be64(1<<63)+"abcd", mp4Part("moov", mvhd)), 0)

	f("flac", flac(44100*3+1), 3001)
	f("flac whose recorder did not go back", flac(0), 0)
	f("flac without its first block", "fLaC\x84"+flac(44100)[5:], 0)

	f("mp3", mp3Frames(100), 2613) // 100 × 1152 / 44100
	f("mp3 behind a tag", "ID3\x04\x00\x00\x00\x00\x01\x00"+strings.Repeat("t", 128)+mp3Frames(100), 2613)
	f("mp3 behind a tag and padding", "ID3\x04\x00\x00\x00\x00\x00\x02tt"+"\x00\x00"+mp3Frames(1), 27)
	f("one frame's head by chance", mp3Frames(1), 0)
	f("mp3 with a tag at its end", mp3Frames(100)+"TAG"+strings.Repeat("t", 125), 2613)
	xing := "\xff\xfb\x90\x00" + strings.Repeat("\x00", 32) + "Xing" + be32(3) + be32(1000) + be32(0) + strings.Repeat("\x00", 413-48)
	f("mp3 with Xing", xing+mp3Frames(2), 26123) // 1000 × 1152 / 44100
	// MPEG 2 layer III, 24 kbit/s, 16 kHz, mono: 72 × 24000 / 16000 = 108 bytes and 576 samples a frame.
	f("mp3 of MPEG 2", strings.Repeat("\xff\xf3\x38\xc0"+strings.Repeat("\x00", 104), 50), 1800)
	f("mp3 of a free rate", "\xff\xfb\x00\x00"+strings.Repeat("\x00", 413), 0)
}

// TestAudioDurationTruncated cuts and corrupts every file everywhere: no panic, no absurd length.
func TestAudioDurationTruncated(t *testing.T) {
	head := oggPage(0, "OpusHead\x01\x01"+"\x38\x01"+le32(48000)+"\x00\x00\x00")
	for _, file := range []string{
		wav(32000, 480, 480), head + oggPage(48312, "y"), mp4(mp4Part("moov", mp4Part("mvhd", strings.Repeat("\x01", 40)))), mp3Frames(3), flac(44100),
	} {
		for i := range len(file) {
			for _, c := range []byte{0, 1, 0x7f, 0xff} {
				b := []byte(file)
				b[i] = c
				for _, b := range [][]byte{b, b[:i], b[i:]} {
					if ms := heardMs(b); ms < 0 || ms > 366*24*3600*1000 {
						t.Fatalf("%s: %d heard", hex.EncodeToString(b), ms)
					}
					if ms, ok := AudioDuration(b); ms < 0 || ms > 366*24*3600*1000 || ok != (ms > 0) {
						t.Fatalf("%s: %d, %v", hex.EncodeToString(b), ms, ok)
					}
				}
			}
		}
	}
	AudioDuration(bytes.Repeat([]byte("ID3\x04\x00\x00\x00\x00\x00\x00"), 1000))
}
