package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

const chatModel = "openai/gpt-4o-mini"

// same makes a call at both ends and compares the raw JSON of the answers but for ids and clocks.
func same(t *testing.T, call func(openai.Client) (raw []string, err error)) []string {
	t.Helper()
	want, wantErr := call(openai.NewClient(option.WithBaseURL(running.direct), option.WithAPIKey(gatewayKey), option.WithMaxRetries(0)))
	got, gotErr := call(openai.NewClient(option.WithBaseURL(running.catraca), option.WithAPIKey(running.key), option.WithMaxRetries(0)))
	var a, b *openai.Error
	if errors.As(wantErr, &a) != errors.As(gotErr, &b) || a != nil && (a.StatusCode != b.StatusCode || a.Code != b.Code || a.Type != b.Type) {
		t.Fatalf("straight: %v; through Catraca: %v", wantErr, gotErr)
	}
	if a == nil && (wantErr != nil || gotErr != nil) {
		t.Fatalf("straight: %v; through Catraca: %v", wantErr, gotErr)
	}
	if len(want) != len(got) {
		t.Fatalf("%d pieces straight, %d through Catraca", len(want), len(got))
	}
	for i := range want {
		if x, y := settled(t, want[i]), settled(t, got[i]); !reflect.DeepEqual(x, y) {
			t.Fatalf("piece %d differs:\nstraight: %s\nthrough:  %s", i, want[i], got[i])
		}
	}
	return got
}

var varies = map[string]bool{
	"id": true, "created": true, "created_at": true, "completed_at": true, "generationId": true, "response_id": true, "responseId": true,
	"item_id": true, "call_id": true, "previous_response_id": true, "startTime": true, "endTime": true, "providerResponseId": true, "obfuscation": true,
}

func settled(t *testing.T, raw string) any {
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return raw
	}
	var walk func(any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if varies[k] {
					delete(v, k)
				} else {
					v[k] = walk(x)
				}
			}
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
		}
		return v
	}
	return walk(v)
}

func question() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    chatModel,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Vocês abrem aos domingos? Tem pão de queijo?")},
	}
}

func TestGoChat(t *testing.T) {
	same(t, func(c openai.Client) ([]string, error) {
		res, err := c.Chat.Completions.New(context.Background(), question())
		if err != nil {
			return nil, err
		}
		return []string{res.RawJSON()}, nil
	})
}

func streamed(asked bool) func(openai.Client) ([]string, error) {
	return func(c openai.Client) ([]string, error) {
		q := question()
		if asked {
			q.StreamOptions.IncludeUsage = openai.Bool(true)
		}
		stream := c.Chat.Completions.NewStreaming(context.Background(), q)
		var raw []string
		for stream.Next() {
			raw = append(raw, stream.Current().RawJSON())
		}
		return raw, stream.Err()
	}
}

func TestGoStream(t *testing.T) {
	for _, piece := range same(t, streamed(false)) {
		if strings.Contains(piece, `"usage"`) {
			t.Errorf("usage was not hidden: %s", piece)
		}
	}
	if all := strings.Join(same(t, streamed(true)), ""); !strings.Contains(all, `"total_tokens"`) {
		t.Error("usage was asked for and did not come")
	}
}

func TestGoTools(t *testing.T) {
	got := same(t, func(c openai.Client) ([]string, error) {
		q := question()
		q.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name:       "frete",
			Parameters: openai.FunctionParameters{"type": "object", "properties": map[string]any{"bairro": map[string]any{"type": "string"}}, "required": []string{"bairro"}},
		})}
		res, err := c.Chat.Completions.New(context.Background(), q)
		if err != nil {
			return nil, err
		}
		return []string{res.RawJSON()}, nil
	})
	if !strings.Contains(got[0], `"tool_calls"`) {
		t.Errorf("no tool call: %s", got[0])
	}
}

func TestGoStructuredOutput(t *testing.T) {
	got := same(t, func(c openai.Client) ([]string, error) {
		q := question()
		q.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &openai.ResponseFormatJSONSchemaParam{
			JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{Name: "pedido", Strict: openai.Bool(true), Schema: map[string]any{
				"type": "object", "properties": map[string]any{"itens": map[string]any{"type": "array", "items": map[string]any{"type": "string"}}},
				"required": []string{"itens"}, "additionalProperties": false,
			}},
		}}
		res, err := c.Chat.Completions.New(context.Background(), q)
		if err != nil {
			return nil, err
		}
		return []string{res.Choices[0].Message.Content}, nil
	})
	var order struct{ Itens []string }
	if err := json.Unmarshal([]byte(got[0]), &order); err != nil {
		t.Errorf("not the schema: %s: %v", got[0], err)
	}
}

func TestGoEmbeddings(t *testing.T) {
	same(t, func(c openai.Client) ([]string, error) {
		res, err := c.Embeddings.New(context.Background(), openai.EmbeddingNewParams{
			Model: "openai/text-embedding-3-small",
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"pão", "queijo"}},
		})
		if err != nil {
			return nil, err
		}
		return []string{res.RawJSON()}, nil
	})
}

func TestGoResponses(t *testing.T) {
	ask := responses.ResponseNewParams{Model: chatModel, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Qual o horário?")}}
	same(t, func(c openai.Client) ([]string, error) {
		res, err := c.Responses.New(context.Background(), ask)
		if err != nil {
			return nil, err
		}
		kept, err := c.Responses.Get(context.Background(), res.ID, responses.ResponseGetParams{})
		if err != nil {
			return nil, err
		}
		return []string{res.RawJSON(), kept.RawJSON()}, c.Responses.Delete(context.Background(), res.ID)
	})
	same(t, func(c openai.Client) ([]string, error) {
		stream := c.Responses.NewStreaming(context.Background(), ask)
		var raw []string
		for stream.Next() {
			raw = append(raw, stream.Current().RawJSON())
		}
		return raw, stream.Err()
	})
}

func TestGoAudio(t *testing.T) {
	var spoken []byte
	same(t, func(c openai.Client) ([]string, error) {
		res, err := c.Audio.Speech.New(context.Background(), openai.AudioSpeechNewParams{
			Model: "openai/tts-1", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}, Input: "Bom dia!",
		})
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		spoken, err = io.ReadAll(res.Body)
		return []string{string(spoken)}, err
	})
	same(t, func(c openai.Client) ([]string, error) {
		res, err := c.Audio.Transcriptions.New(context.Background(), openai.AudioTranscriptionNewParams{
			Model: "openai/whisper-1", File: openai.File(bytes.NewReader(spoken), "voz.ogg", "audio/ogg"),
		})
		if err != nil {
			return nil, err
		}
		return []string{res.RawJSON()}, nil
	})
}

func TestGoErrors(t *testing.T) {
	for _, model := range []string{"sim/400", "sim/401", "sim/402", "sim/403", "sim/404", "sim/429", "sim/500", "sim/503", "sim/529", "sim/html-error"} {
		same(t, func(c openai.Client) ([]string, error) {
			q := question()
			q.Model = model
			res, err := c.Chat.Completions.New(context.Background(), q)
			if err != nil {
				return nil, err
			}
			return []string{res.RawJSON()}, nil
		})
	}
	c := openai.NewClient(option.WithBaseURL(running.catraca), option.WithAPIKey(running.key), option.WithMaxRetries(0))
	for _, model := range []string{"sim/cut-after-3", "sim/cut-mid-3", "sim/reset-after-3", "sim/data-error"} {
		q := question()
		q.Model = model
		stream := c.Chat.Completions.NewStreaming(context.Background(), q)
		for stream.Next() {
		}
		if stream.Err() == nil {
			t.Errorf("%s: the stream ended as if it were whole", model)
		}
	}
}

func TestGoAbort(t *testing.T) {
	c := openai.NewClient(option.WithBaseURL(running.catraca), option.WithAPIKey(running.key), option.WithMaxRetries(0))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q := question()
	q.Model = "sim/slow-50"
	stream := c.Chat.Completions.NewStreaming(ctx, q)
	for n := 0; stream.Next(); n++ {
		if n == 2 {
			cancel()
		}
	}
	if !errors.Is(stream.Err(), context.Canceled) {
		t.Errorf("after cancel: %v", stream.Err())
	}
}
