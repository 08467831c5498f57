package simulator

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// form is a multipart request, read whole. The answer follows from its fields, never from its random boundary.
type form struct {
	fields map[string]string
	file   []byte
	named  bool
}

func (c *call) readForm() (form, error) {
	f := form{fields: map[string]string{}}
	kind, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return f, fmt.Errorf("expected a multipart/form-data body")
	}
	parts := multipart.NewReader(bytes.NewReader(c.body), params["boundary"])
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return f, fmt.Errorf("the multipart body is malformed: %w", err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			return f, fmt.Errorf("the multipart body ends early: %w", err)
		}
		if p.FormName() == "file" {
			f.file, f.named = b, p.FileName() != ""
			continue
		}
		f.fields[p.FormName()] = string(b)
	}
}

// bytesPerSecond tells how long a sound is: 128 kbit a second, begun seconds counted whole, whatever is in the file.
const bytesPerSecond = 16_000

// audioTokensPerSecond is what the newer transcription models bill for listening.
const audioTokensPerSecond = 10

// transcriptions serves POST audio/transcriptions and audio/translations.
func (c *call) transcriptions() {
	f, err := c.readForm()
	if err != nil {
		c.malformed(err.Error(), "file")
		return
	}
	name := f.fields["model"]
	if name == "" {
		c.malformed("you must provide a model parameter", "model")
		return
	}
	streamed := f.fields["stream"] == "true" && !strings.Contains(name, "whisper")
	if !c.begin(name, streamed, f.file, []byte(f.fields["prompt"]), []byte(f.fields["language"])) {
		return
	}
	if f.file == nil {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "file", message: "Missing required parameter: 'file'."})
		return
	}
	t := &transcript{c: c, form: f, seconds: max(1, int64(len(f.file)+bytesPerSecond-1)/bytesPerSecond)}
	t.pieces = prose(c.dice, c.length(0))
	t.usage = t.used()
	if streamed {
		t.stream()
		return
	}
	t.plain()
}

// transcript is what was heard.
type transcript struct {
	c       *call
	form    form
	seconds int64
	pieces  []string
	usage   usage
}

func (t *transcript) text() string { return strings.Join(t.pieces, "") }

// inTokens says whether the model bills tokens; the others bill seconds.
func (t *transcript) inTokens() bool { return t.c.priced.audioIn > 0 }

func (t *transcript) used() usage {
	if !t.inTokens() {
		return usage{seconds: t.seconds}
	}
	audio := t.seconds * audioTokensPerSecond
	return usage{prompt: audio + countTokens(len(t.form.fields["prompt"])), audio: audio, output: int64(len(t.pieces))}
}

func (t *transcript) usageObject() any {
	u := t.usage
	if !t.inTokens() {
		return t.c.spoil(object{"type", "duration", "seconds", u.seconds})
	}
	return t.c.spoil(object{
		"type", "tokens", "total_tokens", u.total(), "input_tokens", u.prompt,
		"input_token_details",
		object{"text_tokens", u.prompt - u.audio, "audio_tokens", u.audio},
		"output_tokens", u.output,
	})
}

func (t *transcript) plain() {
	c := t.c
	switch format := t.form.fields["response_format"]; format {
	case "text":
		t.untold("text/plain; charset=utf-8", t.text()+"\n")
	case "srt":
		t.untold("text/plain; charset=utf-8", t.subtitles(","))
	case "vtt":
		t.untold("text/plain; charset=utf-8", "WEBVTT\n\n"+t.subtitles("."))
	case "", "json", "verbose_json", "diarized_json":
		body := object{"text", t.text()}
		if format == "verbose_json" {
			body = object{"task", "transcribe", "language", "portuguese", "duration", raw(fmt.Sprintf("%d.0", t.seconds)), "text", t.text(), "segments", t.segments()}
		}
		switch {
		case c.route == groq:
			// Its answers have no usage: the duration of a verbose one is all there is to bill by.
			body = body.with("x_groq", object{"id", "req_01" + strings.ToLower(c.letters("xgroq", crockford, 24))})
		case !c.traits.has("no-usage"):
			body = body.with("usage", t.usageObject())
			c.tell(t.usage)
		}
		c.reply(body, t.usage)
	default:
		c.refuse(problem{
			status: http.StatusBadRequest, kind: "invalid_request_error", param: "response_format",
			message: fmt.Sprintf("Invalid value: '%s'. Supported values are: 'json', 'text', 'srt', 'verbose_json', and 'vtt'.", strings.ToValidUTF8(format, "?")),
		})
	}
}

// untold sends a transcript in a format that has no place for usage.
func (t *transcript) untold(contentType, body string) {
	t.c.replyBytes(contentType, []byte(body), t.usage)
}

func (t *transcript) subtitles(point string) string {
	stamp := func(seconds int64) string {
		d := time.Duration(seconds) * time.Second
		return fmt.Sprintf("%02d:%02d:%02d%s000", int(d.Hours()), int(d.Minutes())%60, seconds%60, point)
	}
	number := "1\n"
	if point == "." {
		number = ""
	}
	return fmt.Sprintf("%s%s --> %s\n%s\n\n", number, stamp(0), stamp(t.seconds), t.text())
}

func (t *transcript) segments() list {
	return list{object{
		"id", 0, "seek", 0, "start", raw("0.0"), "end", raw(fmt.Sprintf("%d.0", t.seconds)), "text", t.text(), "tokens",
		list{50364, 50365},
		"temperature", raw("0.0"), "avg_logprob", raw("-0.25"), "compression_ratio", raw("1.2"), "no_speech_prob", raw("0.01"),
	}}
}

func (t *transcript) stream() {
	c := t.c
	s := c.open(t.usage)
	for _, p := range t.pieces {
		if !s.send("", encode(object{"type", "transcript.text.delta", "delta", p}), 1) {
			return
		}
	}
	last := object{"type", "transcript.text.done", "text", t.text()}
	sent := !c.traits.has("no-usage")
	if sent {
		last = last.with("usage", t.usageObject())
	}
	if !s.send("", encode(last), 0) {
		return
	}
	if sent {
		c.tell(t.usage)
	}
	s.done(true)
}

// soundTypes are the content types by response_format.
var soundTypes = map[string]string{"mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm"}

// bytesPerCharacter is how much sound a character makes.
const bytesPerCharacter = 64

// speech serves POST audio/speech.
func (c *call) speech() {
	var r struct {
		Model          string `json:"model"`
		Input          string `json:"input"`
		Voice          any    `json:"voice"`
		Instructions   string `json:"instructions"`
		ResponseFormat string `json:"response_format"`
		StreamFormat   string `json:"stream_format"`
	}
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		c.malformed("you must provide a model parameter", "model")
		return
	}
	format := r.ResponseFormat
	if format == "" {
		format = "mp3"
	}
	if !c.begin(r.Model, r.StreamFormat == "sse", []byte(r.Input), []byte(format)) {
		return
	}
	contentType, ok := soundTypes[format]
	if !ok || r.Input == "" {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "input", message: "Invalid 'input' or 'response_format'."})
		return
	}
	characters := int64(utf8.RuneCountInString(r.Input))
	sound := c.sound(format, int(characters)*bytesPerCharacter)
	u := usage{characters: characters}
	if c.priced.perChar == 0 {
		// The newer models bill tokens: of the text read, and of the sound made.
		u = usage{prompt: countTokens(len(r.Input) + len(r.Instructions)), output: int64(len(sound)+1023) / 1024}
	}
	if c.streamed {
		c.streamSound(sound, u)
		return
	}
	// A sound has no place for usage: nothing is told.
	c.replyBytes(contentType, sound, u)
}

// sound is n drawn bytes, under a true header where the format has a simple one.
func (c *call) sound(format string, n int) []byte {
	b := make([]byte, 0, n+64)
	switch format {
	case "mp3":
		b = append(b, "ID3\x04\x00\x00\x00\x00\x00\x00"...)
	case "opus":
		b = append(b, "OggS"...)
	case "flac":
		b = append(b, "fLaC"...)
	case "wav":
		b = append(b, "RIFF"...)
		b = binary.LittleEndian.AppendUint32(b, uint32(36+n))
		b = append(b, "WAVEfmt "...)
		b = binary.LittleEndian.AppendUint32(b, 16)
		b = binary.LittleEndian.AppendUint16(b, 1)
		b = binary.LittleEndian.AppendUint16(b, 1)
		b = binary.LittleEndian.AppendUint32(b, 24_000)
		b = binary.LittleEndian.AppendUint32(b, 48_000)
		b = binary.LittleEndian.AppendUint16(b, 2)
		b = binary.LittleEndian.AppendUint16(b, 16)
		b = append(b, "data"...)
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	for d := c.dice; n > 0; n -= 8 {
		b = binary.LittleEndian.AppendUint64(b, d.next())
	}
	return b
}

func (c *call) streamSound(sound []byte, u usage) {
	s := c.open(u)
	worth := u.output
	for len(sound) > 0 {
		n := min(1024, len(sound))
		tokens := min(1, worth)
		worth -= tokens
		if !s.send("", encode(object{"type", "speech.audio.delta", "audio", base64.StdEncoding.EncodeToString(sound[:n])}), tokens) {
			return
		}
		sound = sound[n:]
	}
	last := object{"type", "speech.audio.done"}
	sent := !c.traits.has("no-usage") && u.characters == 0
	if sent {
		last = last.with("usage", c.spoil(object{"input_tokens", u.prompt, "output_tokens", u.output, "total_tokens", u.total()}))
	}
	if !s.send("", encode(last), 0) {
		return
	}
	if sent {
		c.tell(u)
	}
	s.done(false)
}
