package proxy

import (
	"bytes"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/proxy/openai"
)

// endpoint is one row of the wire: what we serve, where it goes, how its body and its answer are read.
type endpoint struct {
	name   string // in the ledger and in metrics
	method string
	path   string // below /v1, and below a target's base
	kind   openai.Kind
	body   bodyKind

	// usageOption: the endpoint's streams carry usage only when stream_options.include_usage asks for it.
	usageOption bool
	// modelOptional: the upstream has a default of its own, named here for the price list.
	modelOptional string
	index         int // position in endpoints, for metrics
}

type bodyKind uint8

const (
	noBody bodyKind = iota
	jsonBody
	multipartBody
)

// The endpoints. To add one: a line here, how its usage is read in openai/usage.go, a conversation in testdata.
var endpoints = numbered([]endpoint{
	{name: "chat.completions", method: "POST", path: "/chat/completions", kind: openai.Chat, body: jsonBody, usageOption: true},
	{name: "completions", method: "POST", path: "/completions", kind: openai.Completions, body: jsonBody, usageOption: true},
	{name: "responses", method: "POST", path: "/responses", kind: openai.Responses, body: jsonBody},
	{name: "embeddings", method: "POST", path: "/embeddings", kind: openai.Embeddings, body: jsonBody},
	{name: "moderations", method: "POST", path: "/moderations", kind: openai.Moderations, body: jsonBody, modelOptional: "omni-moderation-latest"},
	{name: "audio.transcriptions", method: "POST", path: "/audio/transcriptions", kind: openai.Transcriptions, body: multipartBody},
	{name: "audio.speech", method: "POST", path: "/audio/speech", kind: openai.Speech, body: jsonBody},
	{name: "images.generations", method: "POST", path: "/images/generations", kind: openai.Images, body: jsonBody, modelOptional: "dall-e-2"},
	{name: "responses.get", method: "GET", path: "/responses/", kind: openai.Opaque},
	{name: "responses.delete", method: "DELETE", path: "/responses/", kind: openai.Opaque},
	{name: "responses.input_items", method: "GET", path: "/responses/", kind: openai.Opaque},
	{name: "responses.cancel", method: "POST", path: "/responses/", kind: openai.Opaque},
	{name: "models", method: "GET", path: "/models"},
	{name: "models.get", method: "GET", path: "/models/"},
})

func numbered(list []endpoint) []endpoint {
	for i := range list {
		list[i].index = i
	}
	return list
}

// Positions in endpoints that the code names.
const (
	epChat = iota
	epCompletions
	epResponses
	epEmbeddings
	epModerations
	epTranscriptions
	epSpeech
	epImages
	epResponseGet
	epResponseDelete
	epResponseItems
	epResponseCancel
	epModels
	epModel
)

// match finds the endpoint of a request line. rest is what follows the endpoint's path: an id and what it names, with
// the query.
func match(method, uri []byte) (e *endpoint, rest []byte, err error) {
	path, query := uri, []byte(nil)
	if i := bytes.IndexByte(uri, '?'); i >= 0 {
		path, query = uri[:i], uri[i:]
	}
	if bytes.HasPrefix(path, []byte("/v1/")) {
		path = path[len("/v1"):]
	}
	i := -1
	switch string(path) {
	case "/chat/completions":
		i = epChat
	case "/completions":
		i = epCompletions
	case "/responses":
		i = epResponses
	case "/embeddings":
		i = epEmbeddings
	case "/moderations":
		i = epModerations
	case "/audio/transcriptions":
		i = epTranscriptions
	case "/audio/speech":
		i = epSpeech
	case "/images/generations":
		i = epImages
	case "/models":
		i = epModels
	}
	if i >= 0 {
		e = &endpoints[i]
		if string(method) != e.method {
			return nil, nil, wrongMethod(e.method)
		}
		return e, query, nil
	}
	if id, ok := bytes.CutPrefix(path, []byte("/models/")); ok && len(id) > 0 {
		if string(method) != fasthttp.MethodGet {
			return nil, nil, wrongMethod(fasthttp.MethodGet)
		}
		return &endpoints[epModel], id, nil
	}
	if id, ok := bytes.CutPrefix(path, []byte("/responses/")); ok {
		return matchResponse(method, id, uri[len(uri)-len(query)-len(id):])
	}
	return nil, nil, notFound("not_found", "", "no such path here: see /v1/models, /v1/chat/completions, /v1/responses, /v1/embeddings and the other OpenAI endpoints")
}

// matchResponse finds what is asked of a stored response. Ids are checked to be plain, so that none can name another
// path upstream.
func matchResponse(method, id, rest []byte) (*endpoint, []byte, error) {
	id, what, _ := bytes.Cut(id, []byte{'/'})
	for _, c := range id {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return nil, nil, notFound("not_found", "", "a response id has letters, digits, '_' and '-' only")
		}
	}
	if len(id) == 0 || len(id) > 256 {
		return nil, nil, notFound("not_found", "", "a response id has 1 to 256 characters")
	}
	i, allow := -1, "GET, DELETE"
	switch string(what) {
	case "":
		switch string(method) {
		case fasthttp.MethodGet:
			i = epResponseGet
		case fasthttp.MethodDelete:
			i = epResponseDelete
		}
	case "input_items":
		i, allow = epResponseItems, "GET"
	case "cancel":
		i, allow = epResponseCancel, "POST"
	default:
		return nil, nil, notFound("not_found", "", "a response has nothing of that name")
	}
	if i < 0 || string(method) != endpoints[i].method {
		return nil, nil, wrongMethod(allow)
	}
	return &endpoints[i], rest, nil
}

func wrongMethod(allow string) error {
	return &refusal{status: fasthttp.StatusMethodNotAllowed, body: openai.Error{
		Type: invalidRequest, Code: "method_not_allowed", Message: "this path takes " + allow + " only",
	}}
}

// modelID undoes the escaping of an id in a path: SDKs escape the slash of "openai/gpt-4o", people do not.
func modelID(raw []byte) (string, error) {
	id, err := url.PathUnescape(string(raw))
	if err != nil || len(id) > 256 || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return "", notFound("model_not_found", "model", "that is not a model's id")
	}
	return id, nil
}

// boundary finds the boundary parameter of a multipart content type.
func boundary(contentType []byte) ([]byte, error) {
	if hasPrefixFold(contentType, "multipart/form-data") {
		for param := range bytes.SplitSeq(contentType, []byte{';'}) {
			if value, ok := cutPrefixFold(bytes.TrimSpace(param), "boundary="); ok {
				value = bytes.Trim(value, `"`)
				if len(value) > 0 && len(value) <= 70 {
					return value, nil
				}
			}
		}
	}
	return nil, badRequest("invalid_multipart", "this endpoint takes multipart/form-data with a boundary of 1 to 70 characters")
}

func cutPrefixFold(b []byte, lower string) ([]byte, bool) {
	if !hasPrefixFold(b, lower) {
		return b, false
	}
	return b[len(lower):], true
}
