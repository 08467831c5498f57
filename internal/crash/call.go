//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// result is what a client saw of its call.
type result string

const (
	whole     result = "whole"     // the answer came to its end
	refused   result = "refused"   // the upstream's own error
	ours      result = "ours"      // an error that the proxy made
	left      result = "left"      // we hung up
	broken    result = "broken"    // the answer began and broke off
	unreached result = "unreached" // no connection, or none that lived until an answer
)

// call is one request of a client, and all that the client learnt.
type call struct {
	mark     string // in the request's body for the upstream, and in a header for the ledger
	tenant   *tenant
	model    string
	endpoint string
	stream   bool
	asks     bool          // for usage in the stream
	failing  bool          // the model's name asks the upstream to fail
	leaves   bool          // the client will hang up:
	after    int           // after so many events of a stream
	within   time.Duration // or when so much time has passed
	body     []byte

	result    result
	detail    string // of a failure: a status and code, or how the connection ended
	status    int
	requestID string
	answered  bool // an upstream's answer began to arrive
	used      *tokens
	at        time.Time
}

// tokens are the classes that a bill is made of.
type tokens struct {
	Input, Output, Total, Cached, CacheWrite, Reasoning int64
}

func (t tokens) plus(sign int64, o tokens) tokens {
	return tokens{
		t.Input + sign*o.Input, t.Output + sign*o.Output, t.Total + sign*o.Total,
		t.Cached + sign*o.Cached, t.CacheWrite + sign*o.CacheWrite, t.Reasoning + sign*o.Reasoning,
	}
}

// What the calls are made of: a third streamed, one in twenty left by its client, one in twenty failed upstream.
const (
	streamedShare = 1.0 / 3
	leavingShare  = 0.05
	failingShare  = 0.05
)

// failures are what the upstream is asked for by name; a stream has more ways to fail.
var (
	plainFailures  = []string{"429", "500", "503", "cut-body"}
	streamFailures = []string{"429", "503", "cut-after-6", "cut-mid-4", "mid-error", "data-error", "reset-after-5"}
	variants       = []string{"", "", "", "+cached", "+reason"}
	unhurried      = "slow-3"
	wordy          = "tokens-200"
)

const (
	chatModel      = "openai/gpt-4o-mini"
	embeddingModel = "openai/text-embedding-3-small"
)

// draw makes up the n-th call.
func (l *load) draw(dice *rand.Rand, n int64) *call {
	c := &call{
		mark: fmt.Sprintf("%s-%d%s", l.name, n, l.padding), tenant: l.tenants[dice.IntN(len(l.tenants))],
		model: chatModel, endpoint: "/chat/completions", stream: dice.Float64() < streamedShare && !l.plain, asks: dice.IntN(2) == 0,
	}
	fate := dice.Float64()
	c.leaves, c.failing = fate < leavingShare, fate > 1-failingShare
	limit := 4 + dice.IntN(12)
	switch {
	case l.plain:
		c.leaves, c.failing = false, false
	case c.failing && c.stream:
		c.model += "+" + streamFailures[dice.IntN(len(streamFailures))]
	case c.failing:
		c.model += "+" + plainFailures[dice.IntN(len(plainFailures))]
	case c.leaves:
		limit = 60
		c.after = 1 + dice.IntN(30)
		c.within = time.Duration(1+dice.IntN(100)) * time.Millisecond
		if c.stream && dice.IntN(3) > 0 {
			c.within = 0 // it goes by events
		}
		if c.within > 0 || dice.IntN(2) == 0 {
			c.model += "+" + unhurried // else the upstream has said it all before the client leaves
		}
	case !c.stream && dice.IntN(8) == 0:
		c.model, c.endpoint = embeddingModel, "/embeddings"
	case l.wordy:
		c.model += "+" + wordy
		limit = 220
	default:
		c.model += variants[dice.IntN(len(variants))]
	}
	text := strings.Repeat("Quanto custa a passagem? ", 1+dice.IntN(6))
	if c.endpoint == "/embeddings" {
		c.body = fmt.Appendf(nil, `{"model":%q,"input":%q,"user":%q,"encoding_format":"base64","dimensions":8}`, c.model, text, c.mark)
		return c
	}
	options := ""
	if c.stream {
		options = `,"stream":true`
		if c.asks {
			options += `,"stream_options":{"include_usage":true}`
		}
	}
	c.body = fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":%q}],"max_tokens":%d,"user":%q%s}`, c.model, text, limit, c.mark, options)
	return c
}

// do makes the call and writes down what came of it.
func (c *call) do(ctx context.Context, client *http.Client, target string) {
	c.at = time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if c.leaves && c.within > 0 {
		timer := time.AfterFunc(c.within, cancel)
		defer timer.Stop()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+c.endpoint, bytes.NewReader(c.body))
	if err != nil {
		panic("BUG: " + err.Error()) // the address is one that we made
	}
	req.Header.Set("Authorization", "Bearer "+c.tenant.key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Conversation-Id", c.mark)
	resp, err := client.Do(req)
	if err != nil {
		c.fail(ctx, unreached, err)
		return
	}
	defer resp.Body.Close()
	c.status, c.requestID = resp.StatusCode, resp.Header.Get("X-Request-Id")
	c.answered = resp.Header.Get("X-Catraca-Route") != ""
	switch {
	case resp.StatusCode >= 400:
		c.readError(ctx, resp.Body)
	case c.stream:
		c.readStream(ctx, resp.Body, cancel)
	default:
		c.readPlain(ctx, resp.Body)
	}
}

// fail names how a call ended that has no answer.
func (c *call) fail(ctx context.Context, as result, err error) {
	c.result = as
	if c.leaves && errors.Is(ctx.Err(), context.Canceled) {
		c.result = left
		return
	}
	for _, word := range []string{"connection refused", "connection reset", "unexpected EOF", "EOF", "deadline exceeded", "broken pipe"} {
		if strings.Contains(err.Error(), word) {
			c.detail = word
			return
		}
	}
	c.detail = err.Error()
}

func (c *call) readError(ctx context.Context, body io.Reader) {
	b, err := io.ReadAll(body)
	if err != nil {
		c.fail(ctx, broken, err)
		return
	}
	c.result = refused
	if !c.answered {
		c.result = ours
	}
	c.detail = fmt.Sprintf("%d %s", c.status, errorCode(b))
}

// errorCode is the code of an error, or its type.
func errorCode(b []byte) string {
	var e struct {
		Error struct {
			Code any    `json:"code"`
			Type string `json:"type"`
		} `json:"error"`
	}
	_ = json.Unmarshal(b, &e) // what is not JSON has no code
	if text, ok := e.Error.Code.(string); ok && text != "" {
		return text
	}
	return e.Error.Type
}

func (c *call) readPlain(ctx context.Context, body io.Reader) {
	b, err := io.ReadAll(body)
	if err != nil {
		c.fail(ctx, broken, err)
		return
	}
	if c.used, err = readUsage(b); err != nil {
		c.result, c.detail = broken, "no JSON"
		return
	}
	c.result = whole
}

// readUsage finds the usage of an answer or of an event; nil where there is none.
func readUsage(b []byte) (*tokens, error) {
	var a struct {
		Usage *struct {
			Input   int64 `json:"prompt_tokens"`
			Output  int64 `json:"completion_tokens"`
			Total   int64 `json:"total_tokens"`
			Details struct {
				Cached int64 `json:"cached_tokens"`
			} `json:"prompt_tokens_details"`
			More struct {
				Reasoning int64 `json:"reasoning_tokens"`
			} `json:"completion_tokens_details"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Usage == nil {
		return nil, err
	}
	u := a.Usage
	return &tokens{Input: u.Input, Output: u.Output, Total: u.Total, Cached: u.Details.Cached, Reasoning: u.More.Reasoning}, nil
}

func (c *call) readStream(ctx context.Context, body io.Reader, hangUp func()) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 8<<10), 1<<20)
	events, finished := 0, false
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		events++
		switch {
		case bytes.Equal(data, []byte("[DONE]")):
			finished = true
		case bytes.HasPrefix(data, []byte(`{"error"`)):
			c.detail = errorCode(data)
		case bytes.Contains(data, []byte(`"usage":{`)):
			if u, err := readUsage(data); err == nil && u != nil {
				c.used = u
			}
		}
		if c.leaves && c.within == 0 && events >= c.after && !finished {
			hangUp()
			c.result = left
			return
		}
	}
	switch err := lines.Err(); {
	case finished: // whatever the connection does after the last word
		c.result = whole
	case err != nil:
		detail := c.detail
		c.fail(ctx, broken, err)
		if detail != "" {
			c.detail = detail
		}
	default:
		c.result = broken
		if c.detail == "" {
			c.detail = "no [DONE]"
		}
	}
}
