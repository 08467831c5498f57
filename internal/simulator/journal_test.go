package simulator

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestJournalAgreesWithTheTally makes one call of each fate and adds the journal up.
func TestJournalAgreesWithTheTally(t *testing.T) {
	sim := New(Config{UniqueIDs: true})
	server := httptest.NewServer(sim)
	defer server.Close()
	defer sim.Close()
	post := func(path, body string) {
		req, err := http.NewRequest(http.MethodPost, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer k")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); { // to its end, whole or broken off
		}
		resp.Body.Close()
	}
	ask := func(mark, model, more string) {
		post("/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"Oi"}],"user":"`+mark+`"`+more+`}`)
	}
	ask("before", "openai/gpt-4o-mini", "")
	post("/_journal", "")
	before := sim.Stats().Total.Issued
	ask("plain", "openai/gpt-4o-mini", "")
	ask("stream", "openai/gpt-4o-mini+cached", `,"stream":true`)
	ask("cut", "openai/gpt-4o-mini+cut-after-5", `,"stream":true`)
	ask("no", "openai/gpt-4o-mini+429", "")
	post("/openai/v1/embeddings", `{"model":"text-embedding-3-small","input":"Oi","user":"vector"}`)

	resp, err := http.Get(server.URL + "/_journal")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sum Amounts
	var cost pico
	fates := map[string]string{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		fates[e.Mark] = e.Outcome
		sum.Input, sum.Output, sum.Cached, sum.Total = sum.Input+e.Input, sum.Output+e.Output, sum.Cached+e.Cached, sum.Total+e.Total
		whole, part, _ := strings.Cut(e.CostUSD, ".")
		for _, digit := range whole + (part + strings.Repeat("0", 12))[:12] {
			e.cost = e.cost*10 + pico(digit-'0')
		}
		cost += e.cost
	}
	want := map[string]string{"plain": "completed", "stream": "completed", "cut": "cut", "no": "refused", "vector": "completed"}
	if len(fates) != len(want) {
		t.Errorf("entries %v, want %v", fates, want)
	}
	for mark, fate := range want {
		if fates[mark] != fate {
			t.Errorf("%s is %q, want %q", mark, fates[mark], fate)
		}
	}
	after := sim.Stats().Total.Issued
	after.cost -= before.cost
	if sum.Input != after.Input-before.Input || sum.Output != after.Output-before.Output || sum.Cached != after.Cached-before.Cached ||
		sum.Total != after.Total-before.Total || cost != after.cost || cost == 0 {
		t.Errorf("the journal comes to %+v and %s, the tally to %+v less %+v", sum, cost, after, before)
	}
}
