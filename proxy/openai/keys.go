package openai

import (
	"strconv"
	"strings"
)

// A scope is an object whose keys are read.
type scope uint8

const (
	top scope = iota
	streamOptions
	providerOptions
	gatewayOptions
)

// knownKeys are the keys that are read, by scope.
var knownKeys = [...][]string{
	top: {
		"model", "models", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
		"best_of", "input", "previous_response_id", "providerOptions",
	},
	streamOptions:   {"include_usage"},
	providerOptions: {"gateway"},
	gatewayOptions:  {"models"},
}

// A scopedKey is a key of an object with so many that they need a map.
type scopedKey struct {
	in  scope
	key string
}

// once refuses a key that stood in its object before, or that another parser could take for a known one.
func (r *Request) once(key string, in scope, first int) *Error {
	seen := r.keys[first:]
	switch n := len(seen); {
	case n >= maxKeys:
		return invalid("", "The request has an object with more than "+strconv.Itoa(maxKeys)+" keys.")
	case n < 32:
		// For the usual handful, comparing lengths and a few bytes is cheaper than hashing.
		for _, k := range seen {
			if k == key {
				return twice(key)
			}
		}
	default:
		if r.many == nil {
			r.many = make(map[scopedKey]struct{})
		}
		if n == 32 {
			for _, k := range seen {
				r.many[scopedKey{in, k}] = struct{}{}
			}
		}
		if _, dup := r.many[scopedKey{in, key}]; dup {
			return twice(key)
		}
		r.many[scopedKey{in, key}] = struct{}{}
	}
	r.keys = append(r.keys, key)
	for _, known := range knownKeys[in] {
		if foldsTo(key, known) {
			return invalid(shown(key), "The key "+strconv.Quote(shown(key))+" differs from "+strconv.Quote(known)+" only in letter case; write "+strconv.Quote(known)+".")
		}
	}
	return nil
}

// foldsTo says that key is not known but equals it when letter case is ignored, as some JSON libraries do.
func foldsTo(key, known string) bool {
	// Only the Kelvin sign and the long s fold to ASCII from outside it; they need three and two bytes for one.
	if len(key) < len(known) || len(key) > 3*len(known) || key == known {
		return false
	}
	return strings.EqualFold(key, known)
}

func twice(key string) *Error {
	return invalid(shown(key), "The key "+strconv.Quote(shown(key))+" stands twice in one object; send it once.")
}
