package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

// limits are tenants at their limits, by what they are answered there: their keys.
var limits = sync.OnceValues(func() (map[string]string, error) {
	keys := map[string]string{}
	for _, l := range []struct {
		name, wants string // what the first call that is held to it is answered
		commands    [][]string
	}{
		{"blocked", "402", nil},
		{"answered", "answer", [][]string{{"budget", "policy", "answered", "--at-limit", "answer", "--answer-text", "Fechado. Volte amanhã! 🥐"}}},
		{"handed", "handoff", [][]string{{"budget", "policy", "handed", "--at-limit", "handoff"}}},
		{"halted", "403", [][]string{{"budget", "pause", "halted", "--reason", "fatura em atraso"}}},
		{"looping", "429", [][]string{{"budget", "policy", "looping", "--conversation-calls", "1"}}},
	} {
		key, err := tenantKey(l.name)
		if err != nil {
			return nil, err
		}
		keys[l.name] = key
		commands := l.commands
		if l.name != "looping" {
			set := []string{"budget", "set", l.name, "--type", "tokens", "--period", "daily", "--limit", "10", "--pause-at-limit"}
			commands = append([][]string{set}, commands...)
		}
		for _, args := range commands {
			if _, err := cli(args...); err != nil {
				return nil, err
			}
		}
		if err := inForce(key, l.wants); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return keys, nil
})

// inForce waits until a key's calls are answered as wanted. Its conversation loops from the second call on.
func inForce(key, wants string) error {
	var last string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequest(http.MethodPost, running.catraca+"/chat/completions",
			strings.NewReader(`{"model":"openai/gpt-4o-mini","max_tokens":5,"messages":[{"role":"user","content":"oi"}]}`))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("X-Conversation-Id", "loop")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if fmt.Sprint(res.StatusCode) == wants || res.Header.Get("X-Catraca-Limit") == wants {
			return nil
		}
		last = fmt.Sprintf("%d %v %s", res.StatusCode, res.Header, body)
	}
	return fmt.Errorf("never answered with %s; at last %s", wants, last)
}

// limitKeys are the keys as environment variables for the suites in other languages.
func limitKeys(t *testing.T) (env []string) {
	t.Helper()
	keys, err := limits()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range keys {
		env = append(env, "E2E_"+strings.ToUpper(name)+"_KEY="+key)
	}
	return env
}

// counting makes an SDK's client with its own defaults, of which one is to try three times, and counts what it sends.
func counting(t *testing.T, tenant string) (openai.Client, *int) {
	t.Helper()
	keys, err := limits()
	if err != nil {
		t.Fatal(err)
	}
	sent := new(int)
	return openai.NewClient(option.WithBaseURL(running.catraca), option.WithAPIKey(keys[tenant]), option.WithHeader("X-Conversation-Id", "loop"),
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			*sent++
			return next(r)
		})), sent
}

// A refusal of ours is sent once: the SDK must not try again what cannot come to anything.
func TestGoRefusedOnce(t *testing.T) {
	for _, tt := range []struct {
		tenant, kind, code string
		status             int
	}{
		{"blocked", "insufficient_quota", "budget_exceeded", 402},
		{"halted", "permission_error", "tenant_paused", 403},
		{"looping", "rate_limit_error", "loop_detected", 429},
	} {
		t.Run(tt.tenant, func(t *testing.T) {
			for name, call := range map[string]func(openai.Client) error{
				"plain": func(c openai.Client) error {
					_, err := c.Chat.Completions.New(context.Background(), question())
					return err
				},
				"streamed": func(c openai.Client) error {
					_, err := streamed(false)(c)
					return err
				},
			} {
				c, sent := counting(t, tt.tenant)
				var refused *openai.Error
				if err := call(c); !errors.As(err, &refused) || refused.StatusCode != tt.status || refused.Code != tt.code || refused.Type != tt.kind {
					t.Errorf("%s: %v", name, err)
				}
				if *sent != 1 {
					t.Errorf("%s: %d requests were sent, want 1", name, *sent)
				}
				if tt.tenant == "blocked" && !strings.Contains(refused.RawJSON(), `"budget":{"type":"tokens","period":"daily","limit":"10"`) {
					t.Errorf("%s: %s", name, refused.RawJSON())
				}
			}
		})
	}
}

// The answers that we give at a limit are answers to the SDK.
func TestGoAnsweredAtTheLimit(t *testing.T) {
	for tenant, want := range map[string]string{"answered": "Fechado. Volte amanhã! 🥐", "handed": ""} {
		t.Run(tenant, func(t *testing.T) {
			c, sent := counting(t, tenant)
			var res *http.Response
			chat, err := c.Chat.Completions.New(context.Background(), question(), option.WithResponseInto(&res))
			if err != nil || chat.Choices[0].Message.Content != want || chat.Choices[0].FinishReason != "stop" || res.Header.Get("X-Catraca-Limit") == "" {
				t.Errorf("%v: %+v", err, chat)
			}
			var text bytes.Buffer
			stream := c.Chat.Completions.NewStreaming(context.Background(), question())
			acc := openai.ChatCompletionAccumulator{}
			for stream.Next() {
				if !acc.AddChunk(stream.Current()) {
					t.Errorf("a chunk that does not fit: %s", stream.Current().RawJSON())
				}
			}
			if err := stream.Err(); err != nil || acc.Choices[0].Message.Content != want || acc.Choices[0].FinishReason != "stop" {
				t.Errorf("%v: %+v", err, acc.ChatCompletion)
			}
			text.Reset()
			answer, err := c.Responses.New(context.Background(), responses.ResponseNewParams{
				Model: chatModel, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("oi")},
			})
			if err != nil || answer.OutputText() != want || answer.Status != "completed" {
				t.Errorf("%v: %+v", err, answer)
			}
			events := c.Responses.NewStreaming(context.Background(), responses.ResponseNewParams{
				Model: chatModel, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("oi")},
			})
			whole := false
			for events.Next() {
				e := events.Current()
				text.WriteString(e.AsResponseOutputTextDelta().Delta)
				whole = whole || e.Type == "response.completed" && e.AsResponseCompleted().Response.OutputText() == want
			}
			if err := events.Err(); err != nil || !whole {
				t.Errorf("%v: completed %t, %q", err, whole, text.String())
			}
			if *sent != 4 {
				t.Errorf("%d requests for four calls", *sent)
			}
		})
	}
}
