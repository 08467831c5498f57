package budget

import (
	"testing"

	"github.com/catraca/catraca/internal/defect"
)

// TestPlantedDefects plants mistakes in the rules and in the purse that would spend money twice, strand it, count it wrong
// or keep quiet about it: the simulation finds each.
func TestPlantedDefects(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the package once for each defect")
	}
	var planted []defect.Planted
	for _, p := range plantedDefects {
		planted = append(planted, defect.Planted{Name: p.name, File: p.file, Old: p.old, New: p.new, Why: p.why})
	}
	defect.Check(t, ".", defect.Options{
		Run: "^TestBudgetSimulation$", Args: []string{"-budget.seeds", "120"},
		Without: []string{
			"a*_test.go", "b*_test.go", "c*_test.go", "d*_test.go", "f*_test.go", "h*_test.go", "m*_test.go", "o*_test.go", "p*_test.go",
			"r*_test.go", "se*_test.go", "sl*_test.go", "sq*_test.go", "st*_test.go", "w*_test.go",
			"postgres*.go", "sqlite*.go", // the drivers are most of what there is to link
		},
	}, planted)
}

var plantedDefects = []struct{ name, file, old, new, why string }{
	{"release by timer", "authority_tidy.go", "\tvar left []uint64\n\tfor _, h := range all {\n", "\tvar left []uint64\n\tfor _, h := range all {\n\t\tif h.State == Live && p.now.Sub(h.HeardAt) > time.Minute {\n\t\t\tleases, _ := p.leasesOf(ctx, []uint64{h.Incarnation})\n\t\t\tfor _, l := range leases {\n\t\t\t\tw, l := p.touch(l.Window, l.Incarnation)\n\t\t\t\tw.giveBack(l, l.Rest())\n\t\t\t}\n\t\t}\n", "a proxy that was cut off goes on spending what others were lent again"},
	{"settle twice", "settle.go", "\t\ts.charge(&charges[i])\n", "\t\ts.charge(&charges[i])\n\t\tif i == 7 {\n\t\t\ts.charge(&charges[i])\n\t\t}\n", "a call is charged twice"},
	{"repeated message grants again", "authority.go", "\tcase m.Op == h.Op:\n", "\tcase m.Op == h.Op && len(m.Want) == 0:\n", "the first grant is held by nobody"},
	{"returned before it is deducted", "purse_message.go", "\t\tamount := s.takeBeyond(keep)\n", "\t\tamount := max(s.avail.Load()-keep, 0)\n", "a proxy spends what it gave back"},
	{"any answer is taken", "purse_reply.go", "\tif p.under == nil || r.Op != p.under.Op || p.finished {\n", "\tif p.under == nil || p.finished {\n", "an answer that comes twice is credited twice"},
	{"wrong zone", "calendar.go", "\tstart, end = Span(b.Period, b.BillingDay, zs.of(b), at)\n", "\tstart, end = Span(b.Period, b.BillingDay, time.UTC, at)\n", "a day turns at midnight in Greenwich"},
	{"day of 24 hours", "calendar.go", "\t\treturn firstInstant(zone, year, month, day), firstInstant(zone, year, month, day+1)\n", "\t\tfirst := firstInstant(zone, year, month, day)\n\t\treturn first, first.Add(24 * time.Hour)\n", "windows overlap, or leave an hour to nobody, when clocks change"},
	{"epoch ignored", "purse_reply.go", "\tif r.Assert || r.Epoch != p.epoch && p.epoch != 0 {\n", "\tif r.Assert && r.Epoch == 0 {\n", "nobody says what a lost tail had lent"},
	{"learning skipped", "authority.go", "\tm.learning = !epoch.Learning.IsZero()\n", "\tm.learning = false\n", "what a lost tail had lent is lent again before anybody could say so"},
	{"assertion taken for the least", "window.go", "\tgranted = max(l.Granted, min(granted, MaxLimit), plus(returned, l.Settled, l.Doubted))\n", "\tgranted = max(min(l.Granted, granted), plus(returned, l.Settled, l.Doubted))\n", "what a lost tail had lent is lent again"},
	{"assertion dropped", "authority_lease.go", "\tm.takeAssertions()\n", "", "what a lost tail had lent is lent again"},
	{"held in some windows of all", "account.go", "\tif o.kind == tryHeld {\n\t\to = h.add(all.current(), &amounts, leave, tick)\n\t}\n", "\tif o.kind == tryHeld && len(own.current()) == 0 {\n\t\to = h.add(all.current(), &amounts, leave, tick)\n\t}\n", "the budget over all clients is not asked"},
	{"undo forgets", "hold.go", "\t\th.slots[i].give(h.p, h.parts[i].Amount)\n", "\t\th.slots[i].give(h.p, 0)\n", "what one window lent is stranded when another one refuses"},
	{"held counts as left over", "window.go", "\tleft := w.left()\n\tswitch {\n", "\tleft := w.left() + w.Held\n\tswitch {\n", "the next window is given what calls are still spending"},
	{"lowered limit claws back", "window.go", "\tw.Committed = 0\n\tw.cover()\n", "\tw.Committed = 0\n\tif after < before {\n\t\tw.Held = min(w.Held, max(0, after-w.Spent-w.Suspense))\n\t}\n\tw.cover()\n", "the books forget what proxies hold"},
	{"new limit, old alerts", "window.go", "\tw.Alerted = 0\n", "", "nobody hears that a raised limit is reached"},
	{"alerts at the highest only", "authority_page.go", "\t\t\tw.Alerted = percent\n\t\t\tp.alert(w, percent)\n", "\t\t\tif w.Alerted == 0 {\n\t\t\t\tp.alert(w, percent)\n\t\t\t}\n\t\t\tw.Alerted = percent\n", "an alert is missing"},
	{"alert on each settlement", "authority_page.go", "\t\tif percent > w.Alerted && used >= share(w.Limit(), percent) {\n", "\t\tif used >= share(w.Limit(), percent-5) {\n", "an alert that nobody should have had"},
	{"correction applied twice", "settle.go", "\tw.undoubt(ds[at].Amount, difference)\n", "\tw.undoubt(ds[at].Amount, difference)\n\tw.adjust(difference)\n", "a call is charged twice"},
	{"doubt dropped", "window.go", "\t\tdoubted = min(hold-within, most-within)\n", "\t\tdoubted = 0\n", "what a call that was cut short used is lent again"},
	{"doubt kept for ever", "settle.go", "\t\ts.dropped = append(s.dropped, ds[at])\n", "\t\t_ = ds[at]\n", "the doubts no longer add up to what is in suspense"},
	{"credited in spite of doubt", "hold.go", "\t\tif doubt || c.Unpriced", "\t\tif c.Unpriced", "a proxy spends what the ledger keeps in suspense"},
	{"recall ignored", "purse_reply.go", "\t\tcase w.Exact && w.Recall > s.recall:\n\t\t\ts.recall = w.Recall\n\t\t\tp.back[s] = true\n\t\t\tfallthrough\n\t\tcase w.Exact:\n", "\t\tcase w.Exact && w.Recall > 1<<40:\n", "idle slices stay where they are, and the last of a limit cannot be spent"},
	{"late settlement passes the lease by", "settle.go", "\t\tif w == nil || booked[w.BudgetID] {\n", "\t\tif w == nil || booked[w.BudgetID] || w.over(s.now) {\n", "a call that ended after its window is charged, and what it held is held for ever"},
	{"settled into the first window only", "settle.go", "\tif !c.Correction {\n\t\treturn c.Holds\n", "\tif !c.Correction {\n\t\treturn c.Holds[:min(len(c.Holds), 1)]\n", "the other windows hold it for ever"},
	{"more than is free", "window.go", "\t\treturn min(free, need)\n", "\t\treturn need\n", "what is spoken for is lent again"},
	{"suspended is free", "window.go", "\tl.Lost = lost\n\t*w.pool(l) += l.Rest()\n", "\tl.Lost = lost\n\tif !lost {\n\t\t*w.pool(l) += l.Rest()\n\t}\n", "what a destroyed volume had in flight is lent again"},
	{"ended window lends on", "account.go", "\tif now := p.ledgerTime(mono); now >= own.until || now >= all.until {\n", "\tif now := p.ledgerTime(mono) - int64(time.Hour); now >= own.until || now >= all.until {\n", "calls are held in yesterday's window"},
	{"wall clock", "purse.go", "func (p *Purse) ledgerTime(mono time.Duration) int64 { return p.ledgerAt.Load() + int64(mono) }\n", "func (p *Purse) ledgerTime(mono time.Duration) int64 { return p.began.UnixNano() + int64(mono) }\n", "a wrong clock opens and closes windows"},
	{"top-up not written down", "hold.go", "\t\th.parts[i].Amount += extra.parts[i].Amount\n", "", "what a call was topped up by comes back to nobody"},
	{"grant kept from its call", "purse_reply.go", "\ts.avail.Add(amount)\n", "\ts.avail.Add(amount - amount/64)\n", "a sliver of each grant is stranded"},
	{"budget that begins later", "authority_lease.go", "\t\tcase o.window == nil:\n\t\t\tnext", "\t\tcase o.window == nil && ahead:\n\t\t\tnext", "a budget is not heeded when it begins"},
	{"unheld not counted", "settle.go", "\t\t\tw.useUnheld(amount)\n", "\t\t\tw.useUnheld(amount - amount/8)\n", "usage without a hold is missing from the window"},
}
