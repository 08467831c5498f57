package budget

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
)

// SendFunc sends a notice to one address, once. It gives the status that the other side answered with, 0 where it did not.
// Its errors hold no address and no secret. One that has a method Final() bool which says so is never tried again.
type SendFunc func(ctx context.Context, to string, n *Notice) (status int, err error)

// CourierOptions is what a Courier is made of.
type CourierOptions struct {
	Outbox  Outbox
	Webhook SendFunc // nil: none is set up, which is what every try then says
	Email   SendFunc // nil: as with Webhook
	// Of every alert these are told too, beside the addresses of its budget.
	DefaultWebhook string
	DefaultEmails  []string
	Every          time.Duration    // between looks at the outbox; 0: 1 s
	AtOnce         int              // alerts that are under way at once; 0: 64
	Now            func() time.Time // nil: the outbox's own clock
	Log            *slog.Logger     // nil: none
}

// Courier tells people of alerts. Any number of them may work on one outbox.
//
// An alert is sent at least once to each address: again after a process died between sending and writing that down, or
// the answer was lost. Its id is the same then, so that a receiver can tell. A try that fails is followed by others for a
// day, at growing distances.
type Courier struct {
	o CourierOptions
}

const (
	courierEvery  = time.Second
	courierAtOnce = 64
	// claimed is how long nobody else takes an alert. What is sent is cut off before.
	claimed       = 60 * time.Second
	sendWithin    = 45 * time.Second
	historyWithin = 2 * time.Second
	// partingTime is how long what is under way may take once the process is to stop.
	partingTime = 5 * time.Second

	firstRetry = 5 * time.Second
	lastRetry  = 2 * time.Hour
	keepTrying = 24 * time.Hour
)

// Deliveries is what became of alerts that were due.
type Deliveries struct {
	Sent    int `json:"sent"`     // notices that arrived
	Failed  int `json:"failed"`   // tries that did not, to be followed by another
	GivenUp int `json:"given_up"` // tries that did not, and were the last
}

func (d *Deliveries) add(o Deliveries) {
	d.Sent += o.Sent
	d.Failed += o.Failed
	d.GivenUp += o.GivenUp
}

// NewCourier makes a courier; it works while Run runs, and when it is told to by Deliver.
func NewCourier(o CourierOptions) *Courier {
	o.Every = cmp.Or(o.Every, courierEvery)
	o.AtOnce = cmp.Or(o.AtOnce, courierAtOnce)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Webhook == nil {
		o.Webhook = notSetUp("no webhook secret is set, so no webhook can be signed")
	}
	if o.Email == nil {
		o.Email = notSetUp("no mail server is set, so no e-mail can be sent")
	}
	return &Courier{o: o}
}

func notSetUp(why string) SendFunc {
	return func(context.Context, string, *Notice) (int, error) { return 0, errors.New(why) }
}

func (c *Courier) now() time.Time {
	if c.o.Now == nil {
		return time.Time{}
	}
	return c.o.Now()
}

// Run delivers what becomes due until ctx ends. Slow receivers take places, of which there are AtOnce, and not time: the
// others' notices pass them by.
func (c *Courier) Run(ctx context.Context) error {
	places := make(chan struct{}, c.o.AtOnce)
	var underWay sync.WaitGroup
	defer underWay.Wait()
	failing := false
	for {
		free := c.o.AtOnce - len(places)
		var due []Delivery
		if free > 0 {
			var err error
			due, err = c.o.Outbox.Due(ctx, c.now(), claimed, free)
			if down := err != nil && ctx.Err() == nil; down != failing {
				if failing = down; down {
					c.o.Log.Warn("alerts cannot be read; trying again", "error", err)
				} else {
					c.o.Log.Info("alerts can be read again")
				}
			}
		}
		for i := range due {
			places <- struct{}{}
			underWay.Go(func() {
				defer func() { <-places }()
				c.deliver(ctx, &due[i])
			})
		}
		if len(due) > 0 && len(due) == free {
			select { // more may be due: look again as soon as there is a place
			case places <- struct{}{}:
				<-places
				continue
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.o.Every):
		}
	}
}

// Deliver delivers what is due now, and comes back when that was tried once.
func (c *Courier) Deliver(ctx context.Context) (all Deliveries, err error) {
	for {
		due, err := c.o.Outbox.Due(ctx, c.now(), claimed, c.o.AtOnce)
		if err != nil {
			return all, err
		}
		done := make([]Deliveries, len(due))
		var underWay sync.WaitGroup
		for i := range due {
			underWay.Go(func() { done[i] = c.deliver(ctx, &due[i]) })
		}
		underWay.Wait()
		for _, d := range done {
			all.add(d)
		}
		if len(due) < c.o.AtOnce || ctx.Err() != nil {
			return all, ctx.Err()
		}
	}
}

// channel is a way to somebody who wants to know.
type channel struct {
	name string
	to   string
	send SendFunc
}

// channels are those of an alert: what its budget names, as it does now, and what is told of everything.
func (c *Courier) channels(d *Delivery) []channel {
	all := []channel{{"webhook", d.Webhook, c.o.Webhook}, {"email", d.Email, c.o.Email}}
	if c.o.DefaultWebhook != d.Webhook {
		all = append(all, channel{"default_webhook", c.o.DefaultWebhook, c.o.Webhook})
	}
	for i, to := range c.o.DefaultEmails {
		name := "default_email"
		if i > 0 {
			name = fmt.Sprintf("%s_%d", name, i+1)
		}
		if to != d.Email {
			all = append(all, channel{name, to, c.o.Email})
		}
	}
	return all
}

// history is what was tried on a channel so far.
type history struct {
	tries       int
	first, last time.Time
	done        bool
}

func historyOf(d *Delivery, name string) (h history) {
	for _, a := range d.Attempts {
		if a.Channel != name {
			continue
		}
		if h.tries++; h.first.IsZero() || a.At.Before(h.first) {
			h.first = a.At
		}
		if a.At.After(h.last) {
			h.last = a.At
		}
		h.done = h.done || a.Done
	}
	return h
}

// due is when the next try is, after those that were.
func (h *history) due(alert int64, name string) time.Time {
	if h.tries == 0 {
		return time.Time{}
	}
	return h.last.Add(backOff(alert, name, h.tries))
}

// backOff is how long to wait after so many tries: three times as long each time, and a quarter more or less. That part
// differs by alert, so that what failed together does not come back together, and is worked out, so that it need not be kept.
func backOff(alert int64, name string, tries int) time.Duration {
	wait := firstRetry
	for i := 1; i < tries && wait < lastRetry; i++ {
		wait *= 3
	}
	wait = min(wait, lastRetry)
	h := fnv.New32a()
	fmt.Fprintf(h, "%d %s %d", alert, name, tries)
	return wait*3/4 + time.Duration(uint64(wait/2)*uint64(h.Sum32()%1000)/1000)
}

// deliver tries an alert once on each channel where it is due, and writes down what became of it.
func (c *Courier) deliver(ctx context.Context, d *Delivery) (done Deliveries) {
	if d.Window.ID == 0 {
		c.o.Log.Error("an alert is of a window that does not exist; nobody is told of it", "alert", d.AlertID, "window", d.Alert.Window)
		c.record(ctx, d, nil, time.Time{})
		return done
	}
	send, cancel := stayFor(ctx, sendWithin)
	defer cancel()
	r := &round{Delivery: d, began: time.Now()}
	var due []channel
	for _, ch := range c.channels(d) {
		h := historyOf(d, ch.name)
		switch at := h.due(d.AlertID, ch.name); {
		case ch.to == "" || h.done:
		case at.After(d.Now):
			r.sooner(at)
		default:
			due = append(due, ch)
		}
	}
	if len(due) > 0 {
		notice := c.notice(send, d)
		var wait sync.WaitGroup
		for _, ch := range due {
			wait.Go(func() {
				a := c.try(send, r, ch, notice)
				if a.Error != "" && send.Err() != nil && ctx.Err() != nil {
					r.dropped() // cut off by us, which says nothing of the receiver
					return
				}
				r.tried(a)
			})
		}
		wait.Wait()
	}
	c.record(ctx, d, r.tries, r.next)
	return r.done
}

// round is one round of tries to deliver an alert, on all channels at once.
type round struct {
	*Delivery
	began time.Time

	mu    sync.Mutex
	tries []Attempt
	done  Deliveries
	next  time.Time
}

// now is by the clock that the delivery was claimed by.
func (r *round) now() time.Time { return r.Now.Add(time.Since(r.began)).Truncate(time.Microsecond) }

// sooner sees to it that the next round is at a time, or before.
func (r *round) sooner(t time.Time) {
	if r.next.IsZero() || t.Before(r.next) {
		r.next = t
	}
}

func (r *round) dropped() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sooner(r.now())
}

func (r *round) tried(a Attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries = append(r.tries, a)
	switch {
	case a.Done && a.Error == "":
		r.done.Sent++
	case a.Done:
		r.done.GivenUp++
	default:
		r.done.Failed++
		r.sooner(a.At.Add(backOff(r.AlertID, a.Channel, a.Try)))
	}
}

// stayFor is a context that ends after a time, or a little after its parent.
func stayFor(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	stay, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-stay.Done():
		case <-time.After(partingTime):
			cancel()
		}
	})
	return stay, func() { stop(); cancel() }
}

// longestError is how much of an error is kept.
const longestError = 300

// try sends a notice once.
func (c *Courier) try(ctx context.Context, r *round, ch channel, n *Notice) Attempt {
	h := historyOf(r.Delivery, ch.name)
	status, err := ch.send(ctx, ch.to, n)
	a := Attempt{Channel: ch.name, Try: h.tries + 1, At: r.now(), Status: status, Done: err == nil}
	log := c.o.Log.With("alert", r.AlertID, "budget", r.BudgetID, "client", r.ClientID, "threshold", r.Threshold, "channel", ch.name, "try", a.Try, "status", status)
	if err == nil {
		log.Info("alert delivered")
		return a
	}
	a.Error = fmt.Sprintf("%.*s", longestError, err.Error())
	var final interface{ Final() bool }
	begun := h.first
	if h.tries == 0 {
		begun = a.At
	}
	a.Done = errors.As(err, &final) && final.Final() || a.At.Add(backOff(r.AlertID, ch.name, a.Try)).After(begun.Add(keepTrying))
	if a.Done {
		log.Warn("alert not delivered, and given up", "error", a.Error)
	} else {
		log.Info("alert not delivered; trying again later", "error", a.Error)
	}
	return a
}

// record writes down what was tried. Where that cannot be done, the claim ends some time and all of it is sent again.
func (c *Courier) record(ctx context.Context, d *Delivery, tries []Attempt, next time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partingTime)
	defer cancel()
	for {
		err := c.o.Outbox.Record(ctx, d, tries, next)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.o.Log.Warn("what became of an alert could not be written down: it may be sent again", "alert", d.AlertID, "error", err)
			return
		case <-time.After(partingTime / 10):
		}
	}
}

// notice is what there is to say of an alert now.
func (c *Courier) notice(ctx context.Context, d *Delivery) *Notice {
	w := &d.Window
	n := &Notice{
		ID: "alert_" + alertID(&d.Alert).String(), BudgetID: d.BudgetID.String(), Client: d.Client, Unit: string(w.Unit), Period: string(w.Period),
		Threshold: d.Threshold, Limit: d.Limit, Used: d.Used, Hard: w.Hard,
		At: d.At, StartsAt: w.StartsAt, EndsAt: w.EndsAt, TimeZone: w.TimeZone,
	}
	if d.ClientID != uuid.Nil {
		n.ClientID = d.ClientID.String()
	}
	ctx, cancel := context.WithTimeout(ctx, historyWithin)
	defer cancel()
	points, err := c.o.Outbox.HourlyUsage(ctx, d.ClientID, w.Unit, d.Now.Add(-ForecastHistory))
	if err != nil {
		return n // it is told without a forecast rather than later
	}
	n.Foreseen, n.Forecast = true, map[int]time.Time{}
	for _, crossing := range Forecast(w, d.Now, points) {
		n.Forecast[crossing.Threshold] = crossing.At
	}
	return n
}

// alertID names an alert for those who get it. It depends on what happened, and not on the row that it is written in: a
// database that lost its end writes it once more, into another one.
func alertID(a *Alert) uuid.UUID {
	return uuid.NewSHA1(a.BudgetID, fmt.Appendf(nil, "%d %d %d", a.Window, a.Threshold, a.LimitVersion))
}
