package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// invent makes a JSON value that matches a JSON Schema, as far as types, required members, enums, lengths and bounds
// go; patterns and conditions are beyond it. What it cannot read it takes for an empty object.
func invent(schema json.RawMessage, d dice) []byte {
	if isNull(schema) {
		return []byte("{}")
	}
	return encode((&inventor{root: schema, dice: d}).value(schema, 0, ""))
}

type inventor struct {
	root json.RawMessage
	dice dice
}

// node is the part of JSON Schema that is understood.
type node struct {
	Ref                  string            `json:"$ref"`
	Type                 json.RawMessage   `json:"type"`
	Properties           json.RawMessage   `json:"properties"`
	Required             []string          `json:"required"`
	Items                json.RawMessage   `json:"items"`
	Enum                 []json.RawMessage `json:"enum"`
	Const                json.RawMessage   `json:"const"`
	Default              json.RawMessage   `json:"default"`
	AnyOf                []json.RawMessage `json:"anyOf"`
	OneOf                []json.RawMessage `json:"oneOf"`
	AllOf                []json.RawMessage `json:"allOf"`
	Format               string            `json:"format"`
	MinLength            int               `json:"minLength"`
	MaxLength            *int              `json:"maxLength"`
	MinItems             int               `json:"minItems"`
	MaxItems             *int              `json:"maxItems"`
	Minimum              *float64          `json:"minimum"`
	Maximum              *float64          `json:"maximum"`
	ExclusiveMinimum     *float64          `json:"exclusiveMinimum"`
	ExclusiveMaximum     *float64          `json:"exclusiveMaximum"`
	MultipleOf           float64           `json:"multipleOf"`
	AdditionalProperties json.RawMessage   `json:"additionalProperties"`
}

// deepest ends recursive schemas: below it only what is required is made, and arrays stay as short as allowed.
const deepest, bottom = 4, 16

func (g *inventor) value(schema json.RawMessage, depth int, name string) any {
	var n node
	if depth > bottom || len(schema) > 0 && json.Unmarshal(schema, &n) != nil {
		return nil
	}
	switch {
	case n.Ref != "":
		return g.value(g.resolve(n.Ref), depth+1, name)
	case len(n.Const) > 0:
		return raw(n.Const)
	case len(n.Enum) > 0:
		return raw(n.Enum[g.dice.below(len(n.Enum))])
	case len(n.AnyOf)+len(n.OneOf) > 0:
		return g.value(pick(append(n.AnyOf, n.OneOf...), depth), depth+1, name)
	case len(n.AllOf) > 0:
		return g.merged(n, depth)
	}
	switch kind(n, depth) {
	case "object":
		return g.object(n, depth)
	case "array":
		return g.array(n, depth)
	case "integer":
		return g.number(n, true)
	case "number":
		return g.number(n, false)
	case "boolean":
		return g.dice.below(2) == 0
	case "null":
		return nil
	}
	return g.text(n, name)
}

// kind is the type a node has; of several, the first that is not null, or null when it is time to stop.
func kind(n node, depth int) string {
	var one string
	var many []string
	if json.Unmarshal(n.Type, &one) == nil && one != "" {
		return one
	}
	_ = json.Unmarshal(n.Type, &many)
	if depth > deepest && slices.Contains(many, "null") {
		return "null"
	}
	for _, k := range many {
		if k != "null" {
			return k
		}
	}
	switch {
	case len(many) > 0:
		return "null"
	case len(n.Properties) > 0:
		return "object"
	case len(n.Items) > 0:
		return "array"
	}
	return "string"
}

// pick takes the first alternative, or null where one offers it and the schema is deep.
func pick(alternatives []json.RawMessage, depth int) json.RawMessage {
	first := alternatives[0]
	for _, a := range alternatives {
		null := strings.Contains(string(a), `"null"`)
		if null == (depth > deepest) {
			return a
		}
	}
	return first
}

// resolve follows a reference inside the document: #/$defs/Name.
func (g *inventor) resolve(ref string) json.RawMessage {
	at := g.root
	for _, step := range strings.Split(strings.TrimPrefix(ref, "#"), "/") {
		if step == "" {
			continue
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(at, &members) != nil {
			return nil
		}
		at = members[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
	}
	return at
}

// merged makes one object of the objects that must all match.
func (g *inventor) merged(n node, depth int) any {
	var all object
	for _, part := range n.AllOf {
		o, ok := g.value(part, depth+1, "").(object)
		if !ok {
			return g.value(n.AllOf[0], depth+1, "")
		}
		all = append(all, o...)
	}
	if own := g.object(n, depth); len(own) > 0 {
		all = append(all, own...)
	}
	return all
}

func (g *inventor) object(n node, depth int) object {
	o := object{}
	for _, m := range members(n.Properties) {
		if depth > deepest && !slices.Contains(n.Required, m.name) {
			continue
		}
		o = o.with(m.name, g.value(m.schema, depth+1, m.name))
	}
	if len(o) == 0 && bytes.HasPrefix(bytes.TrimSpace(n.AdditionalProperties), []byte("{")) && depth <= deepest {
		o = o.with("chave", g.value(n.AdditionalProperties, depth+1, "chave"))
	}
	return o
}

func (g *inventor) array(n node, depth int) list {
	count := 2
	if depth > deepest {
		count = 0
	}
	if n.MaxItems != nil {
		count = min(count, *n.MaxItems)
	}
	count = min(max(count, n.MinItems), 256)
	l := list{}
	for range count {
		l = append(l, g.value(n.Items, depth+1, ""))
	}
	return l
}

// number draws between the bounds, or near the one there is.
func (g *inventor) number(n node, whole bool) raw {
	low, high := 1.0, 100.0
	step := n.MultipleOf
	if step <= 0 {
		step = 1
		if !whole {
			step = 0.5
		}
	}
	minimum, maximum := n.Minimum, n.Maximum
	if v := n.ExclusiveMinimum; v != nil {
		above := *v + step
		minimum = &above
	}
	if v := n.ExclusiveMaximum; v != nil {
		below := *v - step
		maximum = &below
	}
	switch {
	case minimum != nil && maximum != nil:
		low, high = *minimum, *maximum
	case minimum != nil:
		low, high = *minimum, *minimum+100
	case maximum != nil:
		low, high = *maximum-100, *maximum
	}
	if low < 1 && high > 100 {
		// Bounds that only say "any integer" give a number a person would write.
		low, high = 1, 100
	}
	steps := int(min((high-low)/step, 1000))
	v := low
	if steps > 0 {
		v += float64(g.dice.below(steps+1)) * step
	}
	if n.MultipleOf > 0 {
		k := int64(v / step)
		if v = float64(k) * step; v < low {
			v += step
		}
	}
	if whole {
		return raw(strconv.FormatInt(int64(v), 10))
	}
	return raw(strconv.FormatFloat(v, 'f', -1, 64))
}

func (g *inventor) text(n node, name string) any {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, g.dice.below(330))
	switch n.Format {
	case "date":
		return day.Format(time.DateOnly)
	case "date-time":
		return day.Add(9 * time.Hour).Format(time.RFC3339)
	case "time":
		return "09:30:00Z"
	case "email":
		return "ana@exemplo.com.br"
	case "uri", "url":
		return "https://exemplo.com.br/" + strconv.Itoa(g.dice.below(1000))
	case "uuid":
		return fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(g.dice.next()), g.dice.next()>>16)
	case "ipv4":
		return "192.0.2.1"
	}
	s := strings.TrimSpace(words[g.dice.below(len(words))][0])
	if lower := strings.ToLower(name); strings.Contains(lower, "cit") || strings.Contains(lower, "loca") || strings.Contains(lower, "cidade") {
		s = "São Paulo"
	}
	for len([]rune(s)) < min(n.MinLength, 4096) {
		s += " sol"
	}
	if r := []rune(s); n.MaxLength != nil && len(r) > max(0, *n.MaxLength) {
		s = string(r[:max(0, *n.MaxLength)])
	}
	return s
}

type member struct {
	name   string
	schema json.RawMessage
}

// members lists the properties of a schema in the order it declares them, as the real models answer.
func members(properties json.RawMessage) []member {
	dec := json.NewDecoder(bytes.NewReader(properties))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	var all []member
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return all
		}
		m := member{name: key.(string)}
		if dec.Decode(&m.schema) != nil {
			return all
		}
		all = append(all, m)
	}
	return all
}
