package openai

import "bytes"

// subtitleEnd reads when the last cue of an SRT or WebVTT text ends: "00:00:01,000 --> 00:00:04,500". The line must
// be a cue's and nothing else, because a transcript in plain text may hold an arrow too.
func subtitleEnd(b []byte) (ms int64, ok bool) {
	for end := len(b); ; {
		i := bytes.LastIndex(b[:end], []byte(" --> "))
		if i < 0 {
			return 0, false
		}
		end = i
		from := bytes.LastIndexByte(b[:i], '\n') + 1
		if _, rest, ok := clockTime(b[from:i]); !ok || len(bytes.TrimSpace(rest)) > 0 {
			continue
		}
		ms, rest, ok := clockTime(b[i+len(" --> "):])
		if ok && (len(rest) == 0 || rest[0] <= ' ') {
			return ms, true
		}
	}
}

// clockTime reads [hours:]minutes:seconds,milliseconds, with a comma (SRT) or a point (WebVTT), and returns the rest.
func clockTime(b []byte) (ms int64, rest []byte, ok bool) {
	n := int64(0)
	for parts := 0; ; parts++ {
		digits := 0
		v := int64(0)
		for ; digits < len(b) && digits < 4 && '0' <= b[digits] && b[digits] <= '9'; digits++ {
			v = v*10 + int64(b[digits]-'0')
		}
		if digits < 2 || digits >= len(b) || parts > 2 {
			return 0, b, false
		}
		n = n*60 + v
		mark := b[digits]
		b = b[digits+1:]
		if mark == ':' {
			continue
		}
		if mark != ',' && mark != '.' || parts == 0 || len(b) < 3 {
			return 0, b, false
		}
		thousandths, ok := plainInteger(b[:3])
		return n*1000 + thousandths, b[3:], ok
	}
}
