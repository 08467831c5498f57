package openai

import (
	"bytes"
	"encoding/base64"
)

const (
	// slowestSound is the fewest bytes that hold a second of sound in the formats that are sent: speech in Opus at six
	// kilobits per second. What a codec makes of silence is less; OpenAudio says so where it may matter.
	slowestSound = 750
	// fastestSound is the most bytes of a second in compressed formats, which is what Opus can have at most, and
	// fastestPlain of one that loses nothing: two channels of 32-bit samples at 96 kHz. They keep a header that lies
	// from making a file short.
	fastestSound = 64_000
	fastestPlain = 768_000
	// slowestMP3 is the lowest rate of MP3, eight kilobits per second.
	slowestMP3 = 1000
)

// heardMs bounds how long a file plays: by what its headers say, and never shorter than its size allows; or by its size
// alone. Of Opus the packets are counted, because anybody can write another end into the last page.
func heardMs(file []byte) int64 {
	n := int64(len(file))
	ms, ok := AudioDuration(file)
	switch {
	case !ok:
		return n * 1000 / slowestSound
	case string(file[:4]) == "RIFF", string(file[:4]) == "fLaC":
		return max(ms, n*1000/fastestPlain)
	case string(file[:4]) == "OggS":
		ms = max(ms, opusMs(file))
	}
	return max(ms, n*1000/fastestSound)
}

// opusMs adds up the packets of an Ogg file of Opus; 0 when it is of something else.
func opusMs(b []byte) (ms int64) {
	const headLen, noEnd = 27, 255
	if !bytes.Contains(b[:min(len(b), 512)], []byte("OpusHead")) {
		return 0
	}
	frames, between := int64(0), true // in 2.5 ms; between: the next byte begins a packet
	for len(b) >= headLen && string(b[:4]) == "OggS" {
		segments := int(b[26])
		if len(b) < headLen+segments {
			break
		}
		lacing, data := b[headLen:headLen+segments], b[headLen+segments:]
		for _, size := range lacing {
			if int(size) > len(data) {
				return (frames*5 + 1) / 2
			}
			if between && size > 0 {
				frames += opusFrames(data[:size])
			}
			data, between = data[size:], size < noEnd
		}
		b = data
	}
	return (frames*5 + 1) / 2
}

// opusFrames is how long the packet that p begins plays, in units of 2.5 ms, as RFC 6716 has it in section 3.1.
func opusFrames(p []byte) int64 {
	if len(p) >= 8 && string(p[:4]) == "Opus" {
		return 0 // the two headers
	}
	size := int64(0)
	switch config := p[0] >> 3; {
	case config < 12:
		size = [4]int64{4, 8, 16, 24}[config&3]
	case config < 16:
		size = 4 << (config & 1)
	default:
		size = 1 << (config & 3)
	}
	switch p[0] & 3 {
	case 0:
		return size
	case 1, 2:
		return 2 * size
	}
	if len(p) < 2 {
		return 0
	}
	return size * int64(p[1]&63)
}

// inlineSound bounds how long a sound in base64 plays. A WAV file's header tells its rate; MP3 is the only other format
// that is taken inline.
func inlineSound(text []byte) (ms int64) {
	size := int64(len(text)) * 3 / 4
	var head [48]byte
	if len(text) >= 64 {
		if _, err := base64.StdEncoding.Decode(head[:], text[:64]); err == nil && string(head[:4]) == "RIFF" && string(head[12:16]) == "fmt " {
			if rate := wavRate(head[20:]); rate >= slowestMP3 {
				return size*1000/int64(rate) + 1
			}
		}
	}
	return size*1000/slowestMP3 + 1
}

// tokensHeard are those that so much sound costs to hear.
func tokensHeard(ms int64, f family) int64 {
	if ms <= 0 {
		return 0
	}
	return (ms*f.heard + 999) / 1000
}

// spokenTokens bounds the sound that is made of so many characters: OpenAI counts twenty tokens a second, and two
// seconds for a character is eight times slower than reading out a number digit by digit.
func spokenTokens(characters int64) int64 { return 40*characters + 1000 }

// writtenTokens bounds the text of so much sound. Speech has at most some ten tokens a second.
func writtenTokens(ms int64) int64 { return ms*20/1000 + 1024 }
