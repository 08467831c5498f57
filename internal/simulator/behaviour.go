package simulator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Behaviour is one thing the simulator does differently when the name of the model asks for it.
type Behaviour struct {
	Name    string // as it is written after "sim/"; a trailing -N stands for a number
	Example string // a name that works as it stands
	What    string
}

// behaviours is the whole list, in the order `catraca simulate --list` prints it.
var behaviours = []Behaviour{
	{"ok", "sim/ok", "nothing special: a well-behaved model"},
	{"echo", "sim/echo", "the answer's text is the request body as it was received"},
	{"tokens-N", "sim/tokens-100", "N output tokens, if the request's own limit allows them"},
	{"reason", "sim/reason", "64 reasoning tokens before the answer"},
	{"cached", "sim/cached", "three quarters of the prompt's tokens are read from the provider's cache"},
	{"cache-write", "sim/cache-write", "half of the prompt's tokens are written to the provider's cache"},
	{"wrong-model", "sim/wrong-model", "the answer names another model than the request"},

	{"401", "sim/401", "the key is refused"},
	{"402", "sim/402", "no credits, or a budget of the key is spent"},
	{"403", "sim/403", "a rule forbids the model"},
	{"404", "sim/404", "no such model"},
	{"408", "sim/408", "the upstream gave up waiting"},
	{"424", "sim/424", "a dependency of the upstream failed"},
	{"429", "sim/429", "rate limit, with retry-after: 1"},
	{"429-bare", "sim/429-bare", "rate limit, and no word about when to come back"},
	{"500", "sim/500", "internal error"},
	{"503", "sim/503", "service down"},
	{"529", "sim/529", "overloaded (Anthropic's own status)"},
	{"string-error", "sim/string-error", `400 whose body is {"error":"text","type":...,"statusCode":400}`},
	{"array-error", "sim/array-error", "400 whose body is Google's array of one error"},
	{"html-error", "sim/html-error", "502 with an HTML page, as a load balancer sends"},
	{"echo-key", "sim/echo-key", "401 whose message quotes the Authorization header it got, whole"},
	{"redirect", "sim/redirect", "302 to /_elsewhere, which answers and is recorded"},

	{"cut-after-N", "sim/cut-after-5", "the connection closes after N events, at an event's end, with no terminator"},
	{"cut-mid-N", "sim/cut-mid-5", "the connection closes inside the event after N, in the middle of an HTTP chunk"},
	{"cut-utf8", "sim/cut-utf8", "the connection closes between the bytes of one character"},
	{"reset-after-N", "sim/reset-after-5", "as cut-after-N, with a TCP reset"},
	{"cut-body", "sim/cut-body", "a plain answer stops at half of its Content-Length"},
	{"mid-error", "sim/mid-error", "half-way: event: error with an error object, then the end, no [DONE]"},
	{"data-error", "sim/data-error", `half-way: data: {"error":{...}}, then the end, no [DONE]`},
	{"no-done", "sim/no-done", "a complete stream without its [DONE]"},

	{"no-usage", "sim/no-usage", "no usage anywhere"},
	{"usage-zero", "sim/usage-zero", "every count is 0"},
	{"usage-null", "sim/usage-null", "usage is null"},
	{"usage-string", "sim/usage-string", `counts are strings: "19"`},
	{"usage-negative", "sim/usage-negative", "counts are below zero"},
	{"usage-float", "sim/usage-float", "counts are whole numbers written 19.0"},
	{"usage-huge", "sim/usage-huge", "counts are 9223372036854775807"},
	{"usage-first-chunk", "sim/usage-first-chunk", "usage rides the first chunk of a stream and no other"},

	{"first-N", "sim/first-50", "N ms before the first byte"},
	{"slow-N", "sim/slow-5", "N ms between tokens"},
	{"pause-N", "sim/pause-50", "one silence of N ms half-way"},
	{"hang", "sim/hang", "headers, then nothing until the client leaves"},
	{"blackhole", "sim/blackhole", "not even headers until the client leaves"},

	{"crlf", "sim/crlf", "lines of a stream end in CR LF"},
	{"cr", "sim/cr", "lines of a stream end in a lone CR"},
	{"nospace", "sim/nospace", "no space after the colon: data:{...}"},
	{"multiline", "sim/multiline", "the JSON of an event spread over several data: lines"},
	{"comments", "sim/comments", "a : keep-alive comment before each event"},
	{"bom", "sim/bom", "a stream begins with a byte order mark"},
	{"bytes", "sim/bytes", "the body is written and flushed byte by byte"},
	{"big-line", "sim/big-line", "one event's line is 1 MiB long"},
	{"tiny-chunks", "sim/tiny-chunks", "one character an event"},

	{"gzip", "sim/gzip", "the body, plain or streamed, is compressed whether asked for or not"},
	{"close", "sim/close", "no length and no chunks: the end of the connection ends the body"},
	{"no-content-type", "sim/no-content-type", "no Content-Type"},
	{"100-continue", "sim/100-continue", "a 100 Continue nobody asked for comes first"},
	{"early-hints", "sim/early-hints", "a 103 Early Hints comes first"},
}

// Behaviours lists what a model's name can ask for: sim/NAME, several joined with +, a creator before it or not, or
// after any other name (gpt-4o+cut-after-5), which then keeps its price. Config.Behaviours asks the same of every request.
func Behaviours() []Behaviour { return slices.Clone(behaviours) }

// traits are the behaviours one request runs under; the value is the N, or 0.
type traits map[string]int

func (t traits) has(name string) bool { _, ok := t[name]; return ok }

// largestN keeps a mistyped number from building an answer that fills the memory.
const largestN = 4_000_000

// parseTraits adds the behaviours named in spec ("cut-after-5+gzip").
func (t traits) parse(spec string) error {
	for _, word := range strings.Split(spec, "+") {
		name, n := word, 0
		if !listed(word) || strings.HasSuffix(word, "-N") {
			i := strings.LastIndexByte(word, '-')
			number, err := strconv.Atoi(word[i+1:])
			if i < 0 || err != nil || number < 0 || number > largestN || !listed(word[:i]+"-N") {
				return fmt.Errorf("the simulator has no behaviour %q: `catraca simulate --list` prints them", word)
			}
			name, n = word[:i], number
		}
		t[name] = n
	}
	return nil
}

func listed(name string) bool {
	return slices.ContainsFunc(behaviours, func(b Behaviour) bool { return b.Name == name })
}

// readName finds the behaviours in a model's name and the name whose price it has.
func (t traits) readName(name string) (base string, err error) {
	if i := strings.LastIndex(name, "sim/"); i >= 0 && (i == 0 || name[i-1] == '/') {
		return name, t.parse(name[i+len("sim/"):])
	}
	base, spec, found := strings.Cut(name, "+")
	if found {
		return base, t.parse(spec)
	}
	// A proxy that takes off the creator of "sim/echo" leaves "echo".
	if probe := (traits{}); probe.parse(name) == nil {
		return name, t.parse(name)
	}
	return name, nil
}

// status is the HTTP status the behaviours ask for, 0 if none.
func (t traits) status() int {
	for name := range t {
		if n, err := strconv.Atoi(strings.TrimSuffix(name, "-bare")); err == nil {
			return n
		}
	}
	return 0
}
