package metering

import (
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

func TestPercent(t *testing.T) {
	f := func(part, whole, want string) {
		t.Helper()
		if got := Percent(decimal.RequireFromString(part), decimal.RequireFromString(whole)); got.String() != want {
			t.Errorf("%s of %s is %s, want %s", part, whole, got, want)
		}
	}
	f("0", "0", "0")
	f("5", "0", "0")
	f("1", "3", "33.33")
	f("2", "3", "66.67")
	f("1", "800", "0.13") // 0.125: half away from zero
	f("99999", "100000", "100")
	f("5000000", "1", "500000000") // the plan's NUMERIC(5, 2) ends at 999.99
	f("0.000000000001", "0.000000000003", "33.33")
	f("-1", "3", "-33.33")
}

func TestEventID(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	seen := map[uuid.UUID]bool{}
	for range 20000 {
		incarnation, seq := r.Uint64(), r.Uint64N(1<<58)
		if r.IntN(2) == 0 { // neighbours
			incarnation, seq = r.Uint64N(64), r.Uint64N(4096)
		}
		id := EventID(incarnation, seq)
		if id.Version() != 8 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is version %d, variant %s", id, id.Version(), id.Variant())
		}
		back := func() (uint64, uint64) { // nothing is lost, so no two events share an id
			hi, lo := uint64(0), uint64(0)
			for i := range 8 {
				hi, lo = hi<<8|uint64(id[i]), lo<<8|uint64(id[8+i])
			}
			return hi>>16<<16 | hi&0xfff<<4 | lo>>58&0xf, lo & (1<<58 - 1)
		}
		if gotIncarnation, gotSeq := back(); gotIncarnation != incarnation || gotSeq != seq {
			t.Fatalf("%x/%x became %s and that %x/%x", incarnation, seq, id, gotIncarnation, gotSeq)
		}
		seen[id] = true
	}
	if len(seen) < 10000 {
		t.Errorf("only %d different ids", len(seen))
	}
}

func TestCursor(t *testing.T) {
	want := usagePlace{1795212000000000, -77, 12}
	got, err := parseUsagePlace(want.String())
	if err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
}
