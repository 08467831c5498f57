package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// stored is one response that can be asked for again.
type stored struct {
	body  []byte
	input []json.RawMessage
	used  usage
}

// responsesKept bounds the store; the oldest go first.
const responsesKept = 10_000

type responseStore struct {
	mu    sync.Mutex
	byID  map[string]stored
	order []string
}

func (s *responseStore) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID, s.order = nil, nil
}

func (s *responseStore) keep(id string, one stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]stored{}
	}
	if _, known := s.byID[id]; !known {
		s.order = append(s.order, id)
	}
	s.byID[id] = one
	if len(s.order) > responsesKept {
		delete(s.byID, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *responseStore) find(id string) (stored, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.byID[id]
	return one, ok
}

func (s *responseStore) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// storedResponse serves GET responses/{id} and GET responses/{id}/input_items.
func (c *call) storedResponse() {
	c.begun()
	id, items := strings.CutSuffix(c.rest, "/input_items")
	one, ok := c.sim.stored.find(id)
	if !ok {
		c.refuse(noSuchResponse(id))
		return
	}
	if !items {
		c.replyBytes(c.contentType(false), one.body, usage{})
		return
	}
	// Newest first, as the real list is by default.
	data, ids := list{}, []string{}
	for i := len(one.input) - 1; i >= 0; i-- {
		itemID := fmt.Sprintf("msg_%s%04d", id[len("resp_"):], i)
		data = append(data, withID(one.input[i], itemID))
		ids = append(ids, itemID)
	}
	first, last := any(nil), any(nil)
	if len(ids) > 0 {
		first, last = ids[0], ids[len(ids)-1]
	}
	c.reply(object{"object", "list", "data", data, "first_id", first, "has_more", false, "last_id", last}, usage{})
}

// withID gives an input item the id it is listed under, unless it brought one.
func withID(item json.RawMessage, id string) raw {
	var members map[string]json.RawMessage
	if json.Unmarshal(item, &members) != nil {
		return raw(item)
	}
	if _, has := members["id"]; !has {
		members["id"] = encode(id)
	}
	b, err := json.Marshal(members)
	if err != nil {
		return raw(item)
	}
	return raw(b)
}

// deleteResponse serves DELETE responses/{id}.
func (c *call) deleteResponse() {
	c.begun()
	if _, ok := c.sim.stored.find(c.rest); !ok {
		c.refuse(noSuchResponse(c.rest))
		return
	}
	c.sim.stored.drop(c.rest)
	c.reply(object{"id", c.rest, "object", "response", "deleted", true}, usage{})
}

func noSuchResponse(id string) problem {
	return problem{status: http.StatusNotFound, kind: "invalid_request_error", message: fmt.Sprintf("Response with id '%s' not found.", id)}
}
