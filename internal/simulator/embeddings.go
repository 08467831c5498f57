package simulator

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// input is one text, or one array of token numbers, of a request that may bring several.
type input struct {
	text   string
	tokens int64
	seed   []byte
}

// readInputs reads a string, an array of strings, an array of tokens, or an array of those.
func readInputs(v json.RawMessage) ([]input, error) {
	if isNull(v) {
		return nil, nil
	}
	var text string
	if json.Unmarshal(v, &text) == nil {
		return []input{textInput(text)}, nil
	}
	var numbers []int64
	if !bytes.Contains(v, []byte("null")) && json.Unmarshal(v, &numbers) == nil && len(numbers) > 0 {
		return []input{tokenInput(v, len(numbers))}, nil
	}
	var entries []json.RawMessage
	if json.Unmarshal(v, &entries) != nil {
		return nil, fmt.Errorf("expected a string, or an array of strings or tokens")
	}
	var all []input
	for i, e := range entries {
		if json.Unmarshal(e, &text) == nil && !isNull(e) {
			all = append(all, textInput(text))
			continue
		}
		if json.Unmarshal(e, &numbers) != nil || isNull(e) {
			return nil, fmt.Errorf("entry %d is neither a string nor an array of tokens", i)
		}
		all = append(all, tokenInput(e, len(numbers)))
	}
	return all, nil
}

func textInput(s string) input { return input{text: s, tokens: countTokens(len(s)), seed: []byte(s)} }

func tokenInput(v json.RawMessage, n int) input { return input{tokens: int64(n), seed: v} }

// embeddings serves POST embeddings.
func (c *call) embeddings() {
	var r struct {
		Model          string          `json:"model"`
		Input          json.RawMessage `json:"input"`
		EncodingFormat string          `json:"encoding_format"`
		Dimensions     *int            `json:"dimensions"`
	}
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		c.malformed("you must provide a model parameter", "model")
		return
	}
	if !c.begin(r.Model, false) {
		return
	}
	bad := func(param, message string) {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: param, message: message})
	}
	inputs, err := readInputs(r.Input)
	if err != nil || len(inputs) == 0 || len(inputs) > 2048 {
		bad("input", "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.")
		return
	}
	size := dimensions(r.Model)
	if r.Dimensions != nil {
		size = *r.Dimensions
	}
	if size < 1 || size > 8192 {
		bad("dimensions", "Invalid value for 'dimensions'.")
		return
	}
	var u usage
	data := list{}
	for i, in := range inputs {
		u.prompt += in.tokens
		v := vector(seeded(int64(c.dice), in.seed), size)
		data = append(data, object{"object", "embedding", "index", i, "embedding", spelled(v, r.EncodingFormat == "base64")})
	}
	c.replyEmbeddings(data, u)
}

func (c *call) replyEmbeddings(data list, u usage) {
	body := object{"object", "list", "data", data, "model", c.served()}
	if !c.traits.has("no-usage") {
		body = body.with("usage", c.spoil(object{"prompt_tokens", u.prompt, "total_tokens", u.total()}))
		c.tell(u)
	}
	if c.route == gateway {
		// Here the block stands at the top and in camelCase, unlike in a chat.
		cost, id := c.market(u).String(), "gen_"+c.ulid()
		c.remember(id, "stop", false, u)
		body = body.with("providerMetadata", object{"gateway", object{
			"routing",
			object{"originalModelId", c.model, "canonicalSlug", c.slug()},
			"cost", cost, "marketCost", cost, "generationId", id,
		}})
	}
	c.reply(body, u)
}

// dimensions is how long the model's vectors are by default.
func dimensions(name string) int {
	if strings.Contains(name, "3-large") || strings.Contains(name, "gemini") {
		return 3072
	}
	return 1536
}

// vector is a point on the unit sphere, different for every text.
func vector(d dice, size int) []float32 {
	v := make([]float32, size)
	sum := 0.0
	for i := range v {
		x := float64(int64(d.next()>>11))/(1<<52) - 1
		v[i] = float32(x)
		sum += x * x
	}
	norm := float32(math.Sqrt(sum))
	for i := range v {
		v[i] /= norm
	}
	return v
}

// spelled writes a vector as numbers, or as the base64 of little-endian float32.
func spelled(v []float32, packed bool) any {
	if packed {
		b := make([]byte, 0, 4*len(v))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	b := make([]byte, 0, 14*len(v))
	b = append(b, '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(x), 'g', -1, 32)
	}
	return append(b, ']')
}

// moderations serves POST moderations.
func (c *call) moderations() {
	var r struct {
		Model string          `json:"model"`
		Input json.RawMessage `json:"input"`
	}
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		r.Model = "omni-moderation-latest"
	}
	if !c.begin(r.Model, false, r.Input) {
		return
	}
	texts := moderated(r.Input)
	if len(texts) == 0 {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "input", message: "Missing required parameter: 'input'."})
		return
	}
	results := list{}
	for _, t := range texts {
		results = append(results, verdict(t))
	}
	c.reply(object{"id", "modr-" + c.letters("moderation", hexLower, 32), "model", c.served(), "results", results}, usage{})
}

// moderated lists the texts to judge: a string, several, or one message of parts.
func moderated(v json.RawMessage) []string {
	if many, err := stringsOf(v); err == nil {
		return many
	}
	var parts []part
	if json.Unmarshal(v, &parts) != nil || len(parts) == 0 {
		return nil
	}
	var all strings.Builder
	for _, p := range parts {
		all.WriteString(p.Text)
	}
	return []string{all.String()}
}

// verdict flags the texts that contain a word of violence, so that a test can have it either way.
func verdict(text string) object {
	lower := strings.ToLower(text)
	flagged := strings.Contains(lower, "matar") || strings.Contains(lower, "kill")
	categories, scores, types := object{}, object{}, object{}
	for _, name := range []string{
		"harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
		"self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
	} {
		hit := flagged && name == "violence"
		score := raw("0.00001")
		if hit {
			score = raw("0.98")
		}
		categories, scores, types = categories.with(name, hit), scores.with(name, score), types.with(name, list{"text"})
	}
	return object{"flagged", flagged, "categories", categories, "category_scores", scores, "category_applied_input_types", types}
}
