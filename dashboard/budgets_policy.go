package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
)

// BudgetPolicy is how a client is treated with respect to its budgets. What was never set is shown as it is by default.
type BudgetPolicy struct {
	AtLimit           string `json:"at_limit" enum:"block,answer,downgrade,handoff" doc:"block: 402. answer: a set text, as a normal completion. downgrade: a cheaper model, while that fits. handoff: an empty completion with X-Catraca-Limit: handoff."`
	AnswerText        string `json:"answer_text" doc:"Of answer; empty: a sentence in Portuguese."`
	DowngradeModel    string `json:"downgrade_model" doc:"Of downgrade: name or gateway id."`
	FitOutput         bool   `json:"fit_output" doc:"Lower the cap on the output to what still fits, instead of refusing."`
	Bound             string `json:"bound" enum:"bytes,tokenizer" doc:"How the worst case of a prompt is found. bytes: never too low. tokenizer: counted with a margin; tighter, and a little may be overrun."`
	OutputCap         int64  `json:"output_cap" doc:"Held for, and sent upstream, where a request sets none; 0: the model's maximum."`
	LeaveOutput       bool   `json:"leave_output" doc:"Do not send it upstream: then the cap is as good as the upstream's own."`
	Outrun            string `json:"outrun" enum:"top_up,cut" doc:"What happens to a stream that goes beyond its hold. top_up: hold more, and cut where there is no more."`
	AcceptEstimates   bool   `json:"accept_estimates" doc:"Calls that were cut short are settled for what was counted. Else the rest stays in suspense until the upstream's figure is known."`
	TailCalls         int    `json:"tail_calls" doc:"How many more calls a conversation that is open may make once less than tail_percent is left; new ones are refused from there on. 0: no tail."`
	TailPercent       int    `json:"tail_percent" doc:"Of the limit."`
	ConversationCalls int64  `json:"conversation_calls_per_hour" doc:"The loop breaker: what one conversation may do in an hour; 0: no bound."`
	ConversationBRL   string `json:"conversation_brl_per_hour" doc:"0: no bound." example:"5.00"`
	ContactCalls      int64  `json:"contact_calls_per_hour" doc:"What one contact (X-Phone) may do in an hour; 0: no bound."`
	ContactBRL        string `json:"contact_brl_per_hour" doc:"0: no bound."`
}

// BudgetPolicyChange changes what it names and leaves the rest.
type BudgetPolicyChange struct {
	AtLimit           *string `json:"at_limit,omitempty" enum:"block,answer,downgrade,handoff"`
	AnswerText        *string `json:"answer_text,omitempty" doc:"At most 2000 bytes; empty: a sentence in Portuguese."`
	DowngradeModel    *string `json:"downgrade_model,omitempty" doc:"Of the registry, and active: name or gateway id."`
	FitOutput         *bool   `json:"fit_output,omitempty"`
	Bound             *string `json:"bound,omitempty" enum:"bytes,tokenizer"`
	OutputCap         *int64  `json:"output_cap,omitempty" doc:"Tokens; 0: the model's maximum."`
	LeaveOutput       *bool   `json:"leave_output,omitempty"`
	Outrun            *string `json:"outrun,omitempty" enum:"top_up,cut"`
	AcceptEstimates   *bool   `json:"accept_estimates,omitempty"`
	TailCalls         *int    `json:"tail_calls,omitempty" doc:"At most 1000; 0: no tail."`
	TailPercent       *int    `json:"tail_percent,omitempty" doc:"1 to 50; default 5."`
	ConversationCalls *int64  `json:"conversation_calls_per_hour,omitempty" doc:"0: no bound."`
	ConversationBRL   *string `json:"conversation_brl_per_hour,omitempty" doc:"0: no bound." example:"5.00"`
	ContactCalls      *int64  `json:"contact_calls_per_hour,omitempty" doc:"0: no bound."`
	ContactBRL        *string `json:"contact_brl_per_hour,omitempty" doc:"0: no bound."`
}

// Bounds of a policy. More than these is a slip of the finger.
const (
	maxAnswer      = 2000
	maxOutputCap   = 2_000_000_000
	maxTailCalls   = 1000
	maxTailPercent = 50
	defaultTail    = 5 // percent, as budget.Policy has it
	maxCalls       = 1_000_000_000
)

// ByClient names a client in a path.
type ByClient struct {
	ClientID uuid.UUID `path:"client_id" format:"uuid"`
}

func (s *server) budgetPolicyRoutes() {
	const path = budgetPath + "/policy/{client_id}"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, path, "show-budget-policy", "Show what a client is answered at its limit", budgetTag, missing), s.showBudgetPolicy)
	huma.Register(s.api, operation(http.MethodPut, path, "set-budget-policy", "Set what a client is answered at its limit", budgetTag, missing,
		describe("What is not named stays as it is. A change is in use within 2 seconds.")), s.setBudgetPolicy)
	if s.Budgets.WebhookSecret != nil {
		huma.Register(s.api, operation(http.MethodPost, path+"/webhook-secret", "show-webhook-secret", "Show what a client's webhooks are signed with", budgetTag, missing,
			describe("The zero uuid: those of budgets over all clients. Each time is in the audit log.")), s.webhookSecret)
	}
}

// WebhookSecret is what a client's webhooks are signed with.
type WebhookSecret struct {
	Secret string `json:"secret" example:"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" doc:"As the Standard Webhooks specification has it: whoever receives webhooks verifies them with it."`
}

// webhookSecret shows a secret, which nothing else here does: it is worked out of a key of the deployment, so there is no
// other time to show it at. Each time is in the audit log.
func (s *server) webhookSecret(ctx context.Context, in *ByClient) (*body[WebhookSecret], error) {
	name := ""
	if in.ClientID != uuid.Nil {
		if _, err := s.Tenants.Tenant(ctx, in.ClientID); err != nil {
			return nil, s.fail(ctx, "client", err)
		}
		name = in.ClientID.String()
	}
	s.audit(ctx, "budget.webhook_secret", in.ClientID, nil, nil)
	return answer(WebhookSecret{s.Budgets.WebhookSecret(name)}), nil
}

func (s *server) showBudgetPolicy(ctx context.Context, in *ByClient) (*body[BudgetPolicy], error) {
	p, err := s.budgetPolicy(ctx, in.ClientID)
	if err != nil {
		return nil, err
	}
	return answer(policyBody(&p)), nil
}

func (s *server) budgetPolicy(ctx context.Context, client uuid.UUID) (budget.Policy, error) {
	if _, err := s.Tenants.Tenant(ctx, client); err != nil {
		return budget.Policy{}, s.fail(ctx, "client", err)
	}
	p, err := s.Budgets.Store.Policy(ctx, client)
	if err != nil {
		return p, s.failBudget(ctx, err)
	}
	return p, nil
}

func (s *server) setBudgetPolicy(ctx context.Context, in *struct {
	ByClient
	Body BudgetPolicyChange
},
) (*body[BudgetPolicy], error) {
	was, err := s.budgetPolicy(ctx, in.ClientID)
	if err != nil {
		return nil, err
	}
	p, form := was, s.newBudgetForm()
	form.policy(&p, &in.Body)
	if err := s.checkDowngrade(ctx, form, &p, &in.Body); err != nil {
		return nil, err
	}
	if len(form.mistakes) > 0 {
		return nil, huma.Error422UnprocessableEntity("the policy is not valid", form.mistakes...)
	}
	if err := s.Budgets.Store.SetPolicy(ctx, in.ClientID, p); err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.policy", in.ClientID, policyBody(&was), policyBody(&p))
	return answer(policyBody(&p)), nil
}

// policy writes what is named into a policy.
func (f *budgetForm) policy(p *budget.Policy, in *BudgetPolicyChange) {
	replaceWord(&p.AtLimit, in.AtLimit)
	replaceWord(&p.Bound, in.Bound)
	replaceWord(&p.Outrun, in.Outrun)
	replace(&p.FitOutput, in.FitOutput)
	replace(&p.LeaveOutput, in.LeaveOutput)
	replace(&p.AcceptEstimates, in.AcceptEstimates)
	if in.AnswerText != nil {
		p.AnswerText = *in.AnswerText
		if len(p.AnswerText) > maxAnswer || !utf8.ValidString(p.AnswerText) || strings.ContainsRune(p.AnswerText, 0) {
			f.wrong("answer_text", fmt.Sprintf("is %d bytes, and %d of text is the most", len(p.AnswerText), maxAnswer))
		}
	}
	within(f, "output_cap", &p.OutputCap, in.OutputCap, 0, maxOutputCap)
	within(f, "tail_calls", &p.TailCalls, in.TailCalls, 0, maxTailCalls)
	within(f, "tail_percent", &p.TailPercent, in.TailPercent, 1, maxTailPercent)
	within(f, "conversation_calls_per_hour", &p.ConversationCalls, in.ConversationCalls, 0, maxCalls)
	within(f, "contact_calls_per_hour", &p.ContactCalls, in.ContactCalls, 0, maxCalls)
	if in.ConversationBRL != nil {
		p.ConversationBRL = money.Pico(f.amount("conversation_brl_per_hour", budget.BRL, *in.ConversationBRL, 0))
	}
	if in.ContactBRL != nil {
		p.ContactBRL = money.Pico(f.amount("contact_brl_per_hour", budget.BRL, *in.ContactBRL, 0))
	}
}

func replaceWord[T ~string](field *T, with *string) {
	if with != nil {
		*field = T(*with)
	}
}

func within[T int | int64](f *budgetForm, field string, to, from *T, least, most T) {
	if from == nil {
		return
	}
	if *from < least || *from > most {
		f.wrong(field, fmt.Sprintf("must be from %d to %d", least, most))
	}
	*to = *from
}

// checkDowngrade refuses a model that would not be served: at the limit it is too late to find out.
func (s *server) checkDowngrade(ctx context.Context, form *budgetForm, p *budget.Policy, in *BudgetPolicyChange) error {
	if in.DowngradeModel != nil {
		p.DowngradeModel = *in.DowngradeModel
	}
	switch {
	case p.DowngradeModel == "" && p.AtLimit == budget.Downgrade:
		form.wrong("downgrade_model", "is missing: name the model to go down to")
	case p.DowngradeModel == "" || in.DowngradeModel == nil && p.AtLimit != budget.Downgrade:
	default:
		catalog, err := s.Registry.LoadCatalog(ctx)
		if err != nil {
			return s.fail(ctx, "model", err)
		}
		m := catalog.Lookup(p.DowngradeModel)
		switch {
		case m == nil:
			form.wrong("downgrade_model", fmt.Sprintf("the registry has no model %.80q; /api/ai-gateway/models lists them", p.DowngradeModel))
		case !m.Active:
			form.wrong("downgrade_model", "is not active; name another, or activate it")
		}
	}
	return nil
}

func policyBody(p *budget.Policy) BudgetPolicy {
	return BudgetPolicy{
		AtLimit: string(cmp.Or(p.AtLimit, budget.Block)), AnswerText: p.AnswerText, DowngradeModel: p.DowngradeModel, FitOutput: p.FitOutput,
		Bound: string(cmp.Or(p.Bound, budget.BoundBytes)), OutputCap: p.OutputCap, LeaveOutput: p.LeaveOutput,
		Outrun: string(cmp.Or(p.Outrun, budget.TopUp)), AcceptEstimates: p.AcceptEstimates, TailCalls: p.TailCalls,
		TailPercent: cmp.Or(p.TailPercent, defaultTail), ConversationCalls: p.ConversationCalls, ConversationBRL: p.ConversationBRL.String(),
		ContactCalls: p.ContactCalls, ContactBRL: p.ContactBRL.String(),
	}
}
