package metering

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/internal/simulator"
)

// corrSimulator is a gateway that remembers what it was asked for, also where the asker left in the middle.
func corrSimulator(t *testing.T) (sim *simulator.Simulator, base string) {
	t.Helper()
	sim = simulator.New(simulator.Config{Tokens: 40, TokenDelay: 2 * time.Millisecond, UniqueIDs: true})
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	t.Cleanup(sim.Close)
	return sim, server.URL + "/v1"
}

// corrCutShort makes a streamed call, leaves after some events, and returns the id that the first of them told.
func corrCutShort(t *testing.T, base, model string, events int) (id string) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, base+"/chat/completions",
		strings.NewReader(`{"model":"`+model+`","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Ola, tudo bem?"}]}`))
	req.Header.Set("Authorization", "Bearer vck_0123456789")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for events > 0 && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || !strings.HasPrefix(data, "{") {
			continue
		}
		events--
		var head struct{ ID string }
		if err := json.Unmarshal([]byte(data), &head); err != nil {
			t.Fatal(err)
		}
		id = head.ID
	}
	if !strings.HasPrefix(id, "gen_") {
		t.Fatalf("an id %q", id)
	}
	return id
}

// corrEstimates makes calls of every way to be cut short, and the events that a proxy would have closed them with.
func corrEstimates(t *testing.T, sim *simulator.Simulator, base string, client uuid.UUID, admitted time.Time) (events []Event) {
	t.Helper()
	const each = 4
	for i := range each {
		for _, model := range []string{"openai/gpt-4o-mini", "openai/gpt-4o-mini+cut-after-5", "openai/gpt-4o-mini+cached"} {
			e := corrEvent(corrCutShort(t, base, model, 2+i))
			e.Seq, e.RequestID, e.ClientID = uint64(len(events)+1), fmt.Sprint("req_", len(events)), client
			e.AdmittedAt, e.LatencyMs = admitted.Add(time.Duration(i)*time.Minute), 100
			e.Outcome = []Outcome{ClientGone, Truncated, Crashed}[len(events)%3]
			events = append(events, e)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if total := sim.Stats().Total; total.Cut+total.ClientGone+total.Completed == int64(len(events)) {
			return events
		}
		if time.Now().After(end) {
			t.Fatalf("the simulator did not see all of them end: %+v", sim.Stats().Total)
		}
	}
}

// corrUntil runs a corrector until it has no more to do.
func corrUntil(t *testing.T, c *Corrector, corrected int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); c.Stats().Corrected < int64(corrected); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("after 20 s: %+v", c.Stats())
			break
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// What a corrector records of calls that were cut short is what the simulator made, to the token and the last decimal.
func TestCorrectorEqualsTheSimulator(t *testing.T) {
	sim, base := corrSimulator(t)
	events := corrEstimates(t, sim, base, clientIDs[0], time.Now())
	store := newCorrStore(events...)
	c := NewCorrector(store, NewGatewayGenerations(nil, base, "vck_0123456789"), corrPrice, nil)
	corrUntil(t, c, len(events))
	var in, out, cached int64
	var usd money.Pico
	for _, e := range store.corrects {
		in, out, cached, usd = in+e.Input, out+e.Output, cached+e.Cached, usd+e.USD
		if !e.GateKnown || e.Source != Measured {
			t.Errorf("%+v", e)
		}
	}
	want := sim.Stats().Total.Generated
	if in != want.Input || out != want.Output || cached != want.Cached || usd.String() != want.CostUSD || out == 0 || cached == 0 {
		t.Errorf("corrected to %d, %d, %d and %s; the simulator made %+v", in, out, cached, usd, want)
	}
}

// The same through the stores: after the correction the log and the roll-ups have what the simulator made, and nothing
// counts as estimated any more.
func TestCorrectionsInTheStores(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		corrections, ok := s.(Corrections)
		if !ok {
			t.Fatalf("%T keeps no corrections", s)
		}
		sim, base := corrSimulator(t)
		admitted := time.Now().Add(-time.Hour).Truncate(time.Hour)
		events := corrEstimates(t, sim, base, clientIDs[1], admitted)
		whole := corrEvent("gen_whole") // and one call that needs none
		whole.Seq, whole.ClientID, whole.AdmittedAt = 1000, clientIDs[1], admitted
		whole.Source, whole.Outcome = Measured, OK
		if err := s.Record(t.Context(), append(events, whole)); err != nil {
			t.Fatal(err)
		}
		for _, e := range events { // the gateway is given a while to know them; this one knows at once
			if err := corrections.PutOff(t.Context(), Estimate{Event: e}, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		c := NewCorrector(corrections, NewGatewayGenerations(nil, base, "vck_0123456789"), corrPrice, nil)
		corrUntil(t, c, len(events))
		if st := c.Stats(); st.Corrected != int64(len(events)) || st.GivenUp != 0 {
			t.Errorf("%+v", st)
		}
		if due, err := corrections.DueEstimates(t.Context(), time.Now().Add(time.Hour), time.Minute, 100); err != nil || len(due) > 0 {
			t.Errorf("%d are due still, %v", len(due), err)
		}
		want := sim.Stats().Total.Generated
		q := UsageQuery{From: admitted, To: admitted.Add(time.Hour), Zone: time.UTC, ClientID: clientIDs[1]}
		report, err := s.Usage(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		_, log, err := s.UsageFromLog(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for name, total := range map[string]Totals{"roll-ups": report.Total, "log": log} {
			total.USD = total.USD.Sub(whole.USD.Decimal())
			if total.Calls != int64(len(events)+1) || total.Input != want.Input+whole.Input || total.Output != want.Output+whole.Output ||
				total.Cached != want.Cached || total.USD.String() != want.CostUSD || total.Estimated != 0 {
				t.Errorf("the %s have %+v; the simulator made %+v", name, total, want)
			}
		}
	})
}
