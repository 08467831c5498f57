package main

import (
	"context"
	"log/slog"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/notify"
	"github.com/catraca/catraca/tenancy"
)

// alerting is how people are told of budgets: who is asked whether an address will do, and who delivers.
type alerting struct {
	webhook *notify.Webhook
	secret  string // newest, that all webhooks are signed with
	courier *budget.Courier
}

// newAlerting makes the senders that are set up. Webhooks always are, for their secret can be made of the master key.
func newAlerting(cfg *Config, vault *tenancy.Vault, outbox budget.Outbox, log *slog.Logger) (*alerting, error) {
	secrets := cfg.webhookSecrets(vault)
	hook, err := cfg.webhook(secrets)
	if err != nil {
		return nil, err
	}
	o := budget.CourierOptions{
		Outbox: outbox, DefaultWebhook: cfg.AlertWebhook.Reveal(), DefaultEmails: list(cfg.AlertEmail), Log: log,
		Webhook: func(ctx context.Context, to string, n *budget.Notice) (int, error) {
			return hook.Send(ctx, to, (*notify.Notice)(n))
		},
	}
	if cfg.SMTPURL.IsSet() {
		mail, err := cfg.mailer()
		if err != nil {
			return nil, err
		}
		o.Email = func(ctx context.Context, to string, n *budget.Notice) (int, error) {
			return mail.Send(ctx, to, (*notify.Notice)(n))
		}
	}
	return &alerting{hook, secrets[0], budget.NewCourier(o)}, nil
}

// secretOf is what a client's webhooks can be checked with; with an empty name, those of all.
func (a *alerting) secretOf(client string) string {
	if client == "" {
		return a.secret
	}
	return a.webhook.ClientSecret(client)
}
