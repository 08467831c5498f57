package openai

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected files of testdata")

// relay feeds stream in pieces of the lengths that next gives and returns what the client gets and what was learnt.
func relay(k Kind, hide bool, stream []byte, complete bool, next func() int) ([]byte, Reading) {
	var rd Reading
	var s Stream
	s.Init(k, hide, &rd)
	var out []byte
	piece := make([]byte, 0, 64)
	for len(stream) > 0 {
		n := min(max(next(), 1), len(stream))
		// The caller's buffer is overwritten by the next read, so nothing may be kept in it.
		for i := range piece {
			piece[i] = '!'
		}
		piece = append(piece[:0], stream[:n]...)
		out = append(out, s.Feed(piece)...)
		stream = stream[n:]
	}
	for i := range piece {
		piece[i] = '!'
	}
	return append(out, s.End(complete)...), rd
}

func wholePiece() int { return 1 << 30 }

// checkPieces makes sure that the cuts between reads change nothing.
func checkPieces(t *testing.T, k Kind, hide bool, stream []byte, seed uint64) ([]byte, Reading) {
	t.Helper()
	whole, wholeRead := relay(k, hide, stream, true, wholePiece)
	rnd := rand.New(rand.NewPCG(seed, seed))
	for name, next := range map[string]func() int{
		"bytes":      func() int { return 1 },
		"pairs":      func() int { return 2 },
		"small":      func() int { return 1 + rnd.IntN(8) },
		"large":      func() int { return 1 + rnd.IntN(300) },
		"any length": func() int { return 1 << rnd.IntN(14) },
	} {
		pieces, piecesRead := relay(k, hide, stream, true, next)
		if !bytes.Equal(whole, pieces) {
			t.Fatalf("hide=%v, fed in %s:\n got %q\nwant %q", hide, name, pieces, whole)
		}
		if piecesRead != wholeRead {
			t.Fatalf("hide=%v, fed in %s:\n got %+v\nwant %+v\nof %q", hide, name, piecesRead, wholeRead, stream)
		}
	}
	return whole, wholeRead
}

// TestConversations replays recorded-style answers. Each file of testdata says in its comment of which kind it is; it
// holds what the upstream sent (stream or body), what a client that did not ask for usage gets (hidden; absent when
// that is the same), and what is learnt (reading).
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	kinds := map[string]Kind{
		"chat": Chat, "completions": Completions, "responses": Responses, "embeddings": Embeddings, "moderations": Moderations,
		"transcriptions": Transcriptions, "speech": Speech, "images": Images, "opaque": Opaque,
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			word, _, _ := strings.Cut(string(a.Comment), ":")
			k, ok := kinds[word]
			if !ok {
				t.Fatalf("the comment must start with a kind and a colon, not %q", word)
			}
			in := a.Files[0]
			got := &txtar.Archive{Comment: a.Comment, Files: []txtar.File{in}}
			var rd Reading
			if in.Name == "body" {
				rd.ReadBody(k, in.Data)
			} else {
				var asked []byte
				asked, rd = checkPieces(t, k, false, in.Data, 1)
				if !bytes.Equal(asked, in.Data) {
					t.Errorf("the client who asked for usage gets\n%s", asked)
				}
				hidden, hiddenRead := checkPieces(t, k, true, in.Data, 2)
				checkHidden(t, k, in.Data)
				if showReading(&hiddenRead) != showReading(&rd) {
					t.Errorf("hiding changes what is learnt: %s", showReading(&hiddenRead))
				}
				if !bytes.Equal(hidden, in.Data) {
					got.Files = append(got.Files, txtar.File{Name: "hidden", Data: hidden})
				}
			}
			got.Files = append(got.Files, txtar.File{Name: "reading", Data: []byte(showReading(&rd))})
			if text := txtar.Format(got); *update {
				if err := os.WriteFile(file, text, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want := txtar.Format(a); !bytes.Equal(text, want) {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
		})
	}
}

// showReading lists what is not zero.
func showReading(r *Reading) string {
	var b strings.Builder
	show := func(name string, v any) {
		if s := fmt.Sprint(v); s != "0" && s != "" && s != "false" {
			fmt.Fprintf(&b, "%s %s\n", name, s)
		}
	}
	show("usage", r.HasUsage)
	show("input", r.Input)
	show("output", r.Output)
	show("total", r.Total)
	show("cached", r.Cached)
	show("cache_write", r.CacheWrite)
	show("reasoning", r.Reasoning)
	show("audio_input", r.AudioInput)
	show("audio_output", r.AudioOutput)
	show("audio_ms", r.AudioMs)
	show("images", r.Images)
	if r.HasGatewayUSD {
		fmt.Fprintf(&b, "gateway_usd %s\n", r.GatewayUSD)
	}
	show("byok", r.IsBYOK)
	show("id", r.ID)
	show("model", r.Model)
	show("provider", r.Provider)
	show("finish", r.FinishReason)
	show("complete", r.Complete)
	show("failed", r.Failed)
	show("error", r.ErrorCode)
	show("deltas", r.Deltas)
	show("text_bytes", r.TextBytes)
	return b.String()
}

const usageChunk = `{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`

// framings are streams whose frames try SSE's corners. All pass byte for byte when nothing is hidden.
var framings = []string{
	"", "\n", "\r", "\r\n", "\n\n\n", ":", ": ping", ": ping\n", ": ping\n\n", ":\r:\r\r", "data", "data\n\n", "data:\n\n", "data: \n\n",
	"data: {\"id\":\"a\"}\n\n", "data:{\"id\":\"a\"}\n\n", "data:  {\"id\":\"a\"}\n\n", "data: {\"id\":\"a\"}\r\n\r\n", "data: {\"id\":\"a\"}\r\r",
	"data: {\"id\":\"a\"}\r\n\n", "data: {\"id\":\"a\"}\n\r\n", "data: {\"id\":\"a\"}\r\n\r", "data: {\"id\":\"a\"}\n\r", "data: {\"id\":\"a\"}\r\n\rdata: [DONE]\n\n",
	"\xef\xbb\xbfdata: {\"id\":\"a\"}\n\n", "\xef\xbb\xbf\ndata: {\"id\":\"a\"}\n\n", "\xef\xbb\xbf: c\ndata: {\"id\":\"a\"}\n\n", "\n\xef\xbb\xbfdata: {\"id\":\"a\"}\n\n",
	"event: x\nid: 1\nretry: 10\ndata: {\"id\":\"a\"}\n: in between\n\n", "event: error\ndata: {\"message\":\"x\"}\n\n", "event: error\n\n", "event:error\rdata:x\r\r",
	"data: {\"id\":\ndata: \"a\"\ndata: }\n\n", "data: {\"id\":\r\ndata: \"a\"\r\ndata: }\r\n\r\n", "data\ndata: {\"id\":\"a\"}\n\n", "data: {\"id\":\"a\"}\ndata\n\n",
	"data: {\"id\":\"a\"}", "data: {\"id\":\"a\"}\n", "data: {\"id\":\"a\"}\r", "data: {\"id\":\"a\"}\r\n", "data: [DONE]", "data: [DONE]\n\n", "data:[DONE]\n\n",
	"database: {\"id\":\"a\"}\n\n", " data: {\"id\":\"a\"}\n\n", "garbage\n\n", "\x00\n\n", "data: \xff\n\n", "data: {\"id\":\"a\n\n", "data: {\"id\":\"\xc3\xa9\"}\n\n",
	"data: " + usageChunk + "\n\ndata: [DONE]\n\n", "data: {\"id\":\"a\"}\r\n\r\ndata: " + usageChunk + "\r\n\r\ndata: [DONE]\r\n\r\n",
	"data: " + usageChunk + "\r\rdata: [DONE]\r\r", "data: " + usageChunk + "\r\n\r", "data: " + usageChunk, "data: " + usageChunk + "\n",
	"data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":3,\ndata: \"completion_tokens\":2}}\n\n",
	"data: {\"choices\":[{\"index\":0}],\ndata: \"usage\":{\"prompt_tokens\":3,\ndata: \"completion_tokens\":2}\ndata: ,\"z\":1}\n\n",
	"data\ndata: {\"choices\":[{}],\ndata: \"usage\":null,\ndata\ndata: \"z\":1}\n\n",
	": c\n\ndata: " + usageChunk + "\n\n: d\n\n",
}

func TestStreamFraming(t *testing.T) {
	for _, s := range framings {
		if out, _ := checkPieces(t, Chat, false, []byte(s), 3); string(out) != s {
			t.Errorf("%q came out as %q", s, out)
		}
		checkHidden(t, Chat, []byte(s))
	}
}

// TestStreamReads makes sure that each framing of the same payload is understood.
func TestStreamReads(t *testing.T) {
	for _, s := range framings {
		if !strings.Contains(s, `"a"`) || strings.HasPrefix(s, " ") || strings.HasPrefix(s, "database") || strings.HasPrefix(s, "\n\xef") {
			continue
		}
		if _, rd := relay(Chat, false, []byte(s), true, wholePiece); rd.ID != "a" {
			t.Errorf("%q: read id %q", s, rd.ID)
		}
	}
}

func TestStreamHides(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, _ := checkPieces(t, Chat, true, []byte(in), 4)
		if string(got) != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
		checkHidden(t, Chat, []byte(in))
	}
	const some = `"choices":[{"index":0,"delta":{"content":"\"usage\":null"}}]`
	f("data: {"+some+",\"usage\":null}\n\n", "data: {"+some+"}\n\n")
	f("data: {"+some+", \"usage\" : null , \"z\":1}\n\n", "data: {"+some+" , \"z\":1}\n\n")
	f("data: {\"usage\":null,"+some+"}\n\n", "data: {"+some+"}\n\n")
	f("data: { \"usage\" : {\"prompt_tokens\":1} , "+some+"}\n\n", "data: {  "+some+"}\n\n")
	f("data: {"+some+",\"usage\":{\"prompt_tokens\":1},\"x_groq\":{\"usage\":{}}}\n\n", "data: {"+some+",\"x_groq\":{\"usage\":{}}}\n\n")
	f("data: "+usageChunk+"\n\n", "")
	f("data: {\"a\":1}\n\ndata: "+usageChunk+"\n\ndata: [DONE]\n\n", "data: {\"a\":1}\n\ndata: [DONE]\n\n")
	f("event: x\nid: 7\ndata: "+usageChunk+"\n\n: c\n\n", ": c\n\n")
	f("data: {\"choices\":[],\"usage\":null}\n\n", "data: {\"choices\":[]}\n\n")
	f("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1},\"citations\":[\"x\"]}\n\n", "data: {\"choices\":[],\"citations\":[\"x\"]}\n\n")
	f("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1},\"citations\":null,\"service_tier\":\"x\"}\n\n", "")
	f("data: {\"usage\":{\"prompt_tokens\":1}}\n\n", "")
	f("data: {\"usage\":null}\n\n", "data: {}\n\n")
	f("data: {\"error\":{\"code\":\"x\"},\"usage\":{\"prompt_tokens\":1}}\n\n", "data: {\"error\":{\"code\":\"x\"}}\n\n")
	f("data: {"+some+",\ndata: \"usage\":\ndata: null}\n\n", "data: {"+some+"\ndata: \ndata: }\n\n")
	f("data: {\"a\":[1,{\"usage\":1}],\"b\":\"usage\"}\n\n", "data: {\"a\":[1,{\"usage\":1}],\"b\":\"usage\"}\n\n")
}

// TestStreamHidesOnlyWhatWasAdded: the usage of other kinds is there without being asked for.
func TestStreamHidesOnlyWhatWasAdded(t *testing.T) {
	in := []byte("event: transcript.text.done\ndata: {\"type\":\"transcript.text.done\",\"text\":\"oi\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":45}}\n\n")
	out, rd := checkPieces(t, Transcriptions, true, in, 5)
	if !bytes.Equal(out, in) || rd.Input != 14 || rd.Output != 45 || !rd.Complete {
		t.Errorf("got %q, %+v", out, rd)
	}
}

// checkHidden holds the relay that hides to a slow one that reads and writes each event anew.
func checkHidden(t *testing.T, k Kind, in []byte) {
	t.Helper()
	out, _ := checkPieces(t, k, true, in, 6)
	var want []string
	for _, data := range slowEvents(in) {
		kept, ok := slowCompact(data), true
		if k == Chat || k == Completions {
			kept, ok = slowHide(data)
		}
		if ok {
			want = append(want, kept)
		}
	}
	var got []string
	for _, data := range slowEvents(out) {
		got = append(got, slowCompact(data))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("of %q the client gets\n%q, which holds\n%q, want\n%q", in, out, got, want)
	}
}

// slowEvents are the payloads of the events in stream, by the letter of the standard; the last may lack its end.
func slowEvents(stream []byte) (payloads []string) {
	s := strings.TrimPrefix(string(stream), "\xef\xbb\xbf")
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	var data []string
	for _, line := range append(strings.Split(s, "\n"), "") {
		if line == "" {
			if len(data) > 0 {
				payloads = append(payloads, strings.Join(data, "\n"))
			}
			data = nil
			continue
		}
		name, v, _ := strings.Cut(line, ":")
		if name == "data" {
			data = append(data, strings.TrimPrefix(v, " "))
		}
	}
	return payloads
}

// slowHide is the payload without usage; ok is false when nothing is left to say.
func slowHide(data string) (kept string, ok bool) {
	if !json.Valid([]byte(data)) || strings.Contains(data, `\u`) {
		return slowCompact(data), true
	}
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(data), &m) != nil {
		return slowCompact(data), true
	}
	u, has := m["usage"]
	if !has {
		return slowCompact(data), true
	}
	delete(m, "usage")
	var choices []json.RawMessage
	_ = json.Unmarshal(m["choices"], &choices)
	more := false
	for key, v := range m {
		switch key {
		case "choices", "object", "created", "created_at", "system_fingerprint", "service_tier", "obfuscation", "generationId", "provider",
			"usage_breakdown", "id", "model", "x_groq", "provider_metadata", "providerMetadata", "type", "code":
		default:
			more = more || string(v) != "null"
		}
	}
	if len(choices) == 0 && u[0] == '{' && !more {
		return "", false
	}
	out, _ := json.Marshal(m)
	return slowCompact(string(out)), true
}

// slowCompact is data with sorted keys, when it is a JSON object.
func slowCompact(data string) string {
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(data), &m) != nil || m == nil {
		return data
	}
	out, err := json.Marshal(m)
	if err != nil {
		return data
	}
	return string(out)
}

// TestStreamHoldsBack makes sure that an event is passed on as soon as it is whole, and not before.
func TestStreamHoldsBack(t *testing.T) {
	var s Stream
	var rd Reading
	s.Init(Chat, true, &rd)
	f := func(in, want string) {
		t.Helper()
		if got := string(s.Feed([]byte(in))); got != want {
			t.Errorf("Feed(%q) = %q, want %q", in, got, want)
		}
	}
	f("data: {\"id\":", "")
	f("\"a\"}", "")
	f("\n", "")
	f("\n", "data: {\"id\":\"a\"}\n\n")
	f("data: 1\r\n\r", "data: 1\r\n\r") // the client gets it now; the LF follows
	f("\ndata: 2\n\ndata: 3", "\ndata: 2\n\n")
	f("\r\r", "data: 3\r\r")
	f("", "")
	f(": keep-alive\n", ": keep-alive\n") // no empty line is needed outside an event
	f("event: x\n: c\n", "")
	f("\n", "event: x\n: c\n\n")
	f("data: "+usageChunk+"\r\n\r", "") // what follows a hidden event's CR is hidden with it
	f("\n", "")
	f("\n", "\n")
	f("data: "+usageChunk+"\r\r", "")
	f(": c\r", ": c\r")
	f("\n", "\n")
}

func TestStreamZeroCopy(t *testing.T) {
	var s Stream
	var rd Reading
	s.Init(Chat, true, &rd)
	p := []byte("data: {\"choices\":[{\"delta\":{\"content\":\"oi\"}}]}\n\n")
	if out := s.Feed(p); &out[0] != &p[0] || len(out) != len(p) {
		t.Error("a whole event was copied")
	}
	p = append(p, "data: {"...)
	if out := s.Feed(p); &out[0] != &p[0] {
		t.Error("a whole event before half of one was copied")
	}
	s.Init(Chat, true, &rd)
	p = []byte("data: " + usageChunk + "\n\ndata: [DONE]\n\n")
	if out := s.Feed(p); string(out) != "data: [DONE]\n\n" || &out[0] != &p[len(p)-len(out)] {
		t.Error("what follows a dropped event was copied")
	}
}

func TestStreamEnd(t *testing.T) {
	f := func(in string, complete bool, want string, read bool) {
		t.Helper()
		out, rd := relay(Chat, true, []byte(in), complete, wholePiece)
		if string(out) != want || (rd.ID == "b") != read {
			t.Errorf("%q, complete=%v: %q, read id %q", in, complete, out, rd.ID)
		}
	}
	f("data: 1\n\ndata: {\"id\":\"b\"}", true, "data: 1\n\ndata: {\"id\":\"b\"}", true)
	f("data: 1\n\ndata: {\"id\":\"b\"}", false, "data: 1\n\n", false)
	f("data: 1\n\ndata: {\"id\":\"b\"}\n", true, "data: 1\n\ndata: {\"id\":\"b\"}\n", true)
	f("data: 1\n\ndata: {\"id\":\"b\"}\n", false, "data: 1\n\n", false)
	f("data: 1\n\ndata: {\"id\":\"b\",\"usage\":null}", true, "data: 1\n\ndata: {\"id\":\"b\"}", true)
	f("data: 1\n\ndata: {\"id\":\"b\",\"choices\":[],\"usage\":{\"prompt_tokens\":1}}", true, "data: 1\n\n", true)
	f("data: 1\n\n: half a comm", true, "data: 1\n\n: half a comm", false)
	f("data: 1\n\n", false, "data: 1\n\n", false)
	f("", true, "", false)
}

// TestStreamLongEvent: what is longer than the limit passes unread, in bounded memory, and the stream goes on after it.
func TestStreamLongEvent(t *testing.T) {
	for _, size := range []int{1 << 20, maxEvent - 9, maxEvent - 8, maxEvent - 7, maxEvent, 3 * maxEvent} {
		for _, eol := range []string{"\n", "\r\n", "\r"} {
			in := []byte("data: {\"id\":\"a\"}" + eol + eol + "data: " + strings.Repeat("x", size) + eol + eol + "data: {\"choices\":[{}],\"usage\":null}" + eol + eol)
			whole, wholeRead := relay(Chat, true, in, true, wholePiece)
			want := bytes.Replace(in, []byte(`,"usage":null`), nil, 1)
			if !bytes.Equal(whole, want) {
				t.Fatalf("%d bytes and %q: %d bytes come out", size, eol, len(whole))
			}
			for _, step := range []int{4 << 10, 1<<20 - 1} {
				pieces, piecesRead := relay(Chat, true, in, true, func() int { return step })
				if !bytes.Equal(pieces, want) || piecesRead != wholeRead {
					t.Fatalf("%d bytes and %q, fed by %d: %d bytes come out", size, eol, step, len(pieces))
				}
			}
		}
	}
	var s Stream
	var rd Reading
	s.Init(Chat, false, &rd)
	piece := bytes.Repeat([]byte("data: 64 MiB without an end "), 4096)
	for range 64 << 20 / len(piece) {
		s.Feed(piece)
	}
	if cap(s.buf) > 3*maxEvent {
		t.Errorf("the buffer grew to %d bytes", cap(s.buf))
	}
	if out := s.End(false); string(out) != "\n\n" {
		t.Errorf("End(false) inside a long event = %q; an error frame needs an empty line before it", out)
	}
	s.Init(Chat, false, &rd)
	if cap(s.buf) > keepBuffer {
		t.Errorf("the next stream starts with a buffer of %d bytes", cap(s.buf))
	}
}

func TestStreamAllocatesNothing(t *testing.T) {
	var s Stream
	var rd Reading
	s.Init(Chat, true, &rd)
	whole := []byte("data: " + ordinaryChunk + "\n\n")
	s.Feed(whole)
	s.Feed(whole[:50])
	s.Feed(whole[50:])
	if n := testing.AllocsPerRun(100, func() {
		s.Feed(whole)
		s.Feed(whole[:50])
		s.Feed(whole[50:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
