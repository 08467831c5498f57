package dashboard

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// PersonNamed says who is meant. It is in a body and never in an address, which is logged by whatever it passes.
type PersonNamed struct {
	Phone string `json:"phone" minLength:"1" maxLength:"200" pattern:"\\S" doc:"The number in any usual spelling, or as it was sent, or the pseudonym as the log has it."`
}

// PersonErased counts what a person was erased from.
type PersonErased struct {
	Calls   int `json:"calls" doc:"Calls that are nobody's now. All they used and cost is still counted."`
	Letters int `json:"dead_letters" doc:"Dead letters that the person was taken out of."`
}

// PersonCall is one call of a person.
type PersonCall struct {
	ExportedCall
	Phone string `json:"phone,omitempty" doc:"A pseudonym, or raw where the tenant asked for that."`
}

func (s *server) personRoutes() {
	if s.Ledger == nil {
		return
	}
	const tag = "persons"
	const path = "/api/ai-gateway/clients/{id}/persons/"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodPost, path+"erase", "erase-person", "Make a person's calls nobody's", tag, missing,
		describe("Phone, conversation and metadata go from every call of the person; tokens, costs and sums stay what they are. It cannot be taken back. "+
			"Calls that are still on their way are erased within six hours of when they come.")), s.erasePerson)
	huma.Register(s.api, operation(http.MethodPost, path+"export", "export-person", "All calls of a person, as JSON lines", tag, missing, streams("application/x-ndjson")), s.exportPerson)
}

func (s *server) erasePerson(ctx context.Context, in *struct {
	ByID
	Body PersonNamed
},
) (*body[PersonErased], error) {
	person, err := s.person(ctx, in.ID, in.Body.Phone)
	if err != nil {
		return nil, err
	}
	erased, err := s.Ledger.Erase(ctx, person, s.Now())
	if err != nil {
		return nil, s.fail(ctx, "person", err)
	}
	out := PersonErased{erased.Calls, erased.Letters}
	s.audit(ctx, "person.erase", in.ID, nil, out) // without the number: it would be the last place that has it
	return answer(out), nil
}

func (s *server) exportPerson(ctx context.Context, in *struct {
	ByID
	Body PersonNamed
},
) (*huma.StreamResponse, error) {
	person, err := s.person(ctx, in.ID, in.Body.Phone)
	if err != nil {
		return nil, err
	}
	names, err := s.tenantNames(ctx)
	if err != nil {
		return nil, err
	}
	s.audit(ctx, "person.export", in.ID, nil, nil)
	return s.stream("application/x-ndjson", "catraca-person.jsonl", func(w rowWriter) error {
		return s.Ledger.PersonCalls(ctx, person, func(r *metering.UsageRow) error {
			return w.json(PersonCall{exportedCall(r, names), r.Phone})
		})
	}), nil
}

// pseudonym matches what Principal.Phone makes of a number.
var pseudonym = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

// person works out how the log names somebody.
func (s *server) person(ctx context.Context, client uuid.UUID, phone string) (metering.Person, error) {
	asked, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	who, err := s.Tenants.PrincipalByClient(asked, client)
	if err != nil {
		return metering.Person{}, s.fail(ctx, "tenant", err)
	}
	phone = strings.TrimSpace(phone)
	kept := who.Phone([]byte(phone))
	// Calls to come are looked for by how this tenant keeps them. A raw number is among that only where it is kept raw.
	known := []string{kept}
	if pseudonym.MatchString(phone) {
		known = append(known, phone)
	}
	return metering.Person{
		ClientID: client, Phones: known,
		Is: func(stored string) bool { return stored == kept || stored == phone || tenancy.SamePhone(stored, phone) },
	}, nil
}
