package budget

import (
	"testing"

	"github.com/catraca/catraca/internal/defect"
)

// TestPlantedDefectsOfAlerts plants mistakes that would lose alerts, or send them again and again.
func TestPlantedDefectsOfAlerts(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the package once for each defect")
	}
	defect.Check(t, ".", defect.Options{
		Run: "^(TestAlerts(AreDelivered|AreTriedForADay|SurviveEverything|FollowTheBudgetAsItIs)|TestRecordAfterTheClaimPassedOn)$/^sqlite$", Args: []string{"-test.short"},
		Without: []string{"[b-z]*_test.go", "a[a-km-z]*_test.go", "alerts_store_test.go", "alerts_planted_test.go"},
	}, []defect.Planted{
		{Name: "tried is done", File: "alerts_courier.go", Old: "h.done = h.done || a.Done", New: "h.done = true", Why: "a receiver that is down for a minute never learns"},
		{Name: "given up at once", File: "alerts_courier.go", Old: "begun.Add(keepTrying))", New: "begun.Add(time.Minute))", Why: "a receiver that is down for an hour never learns"},
		{Name: "every channel again", File: "alerts_courier.go", Old: "case ch.to == \"\" || h.done:", New: "case ch.to == \"\":", Why: "who was told is told again for each try of another"},
		{Name: "no claim", File: "sqlite_outbox.go", Old: "now.Add(lease).Truncate(time.Microsecond)", New: "now.Truncate(time.Microsecond)", Why: "two couriers send the same alert"},
		{Name: "a claim for ever", File: "sqlite_outbox.go", Old: "SET deliver_at = ? WHERE id = ?\", d.Until.UnixMicro(), d.AlertID)", New: "SET deliver_at = NULL WHERE id = ? + 0 * ?\", d.AlertID, d.Until.UnixMicro())", Why: "a courier that dies takes its alerts along"},
		{Name: "a late courier has its way", File: "sqlite_outbox.go", Old: "WHERE id = ? AND deliver_at = ?\", at, d.AlertID, d.Until.UnixMicro())", New: "WHERE id = ? OR id = -?\", at, d.AlertID, d.Until.UnixMicro())", Why: "what another one is to try again is never tried"},
		{Name: "the address of before", File: "alerts_courier.go", Old: "{\"webhook\", d.Webhook, c.o.Webhook}", New: "{\"webhook\", \"https://loja.example/hook\", c.o.Webhook}", Why: "an address that was put right is not used"},
	})
}
