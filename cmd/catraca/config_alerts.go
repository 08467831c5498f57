package main

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/catraca/catraca/internal/notify"
	"github.com/catraca/catraca/tenancy"
)

// list reads a setting that is a list.
func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// validateAlerts finds what is wrong with how alerts of budgets are sent.
func (c *Config) validateAlerts(m *mistakes) {
	rules, err := c.webhookRules()
	if err != nil {
		m.add("%w", err)
	}
	if c.AlertWebhook.IsSet() {
		if err := rules.CheckURL(c.AlertWebhook.Reveal()); err != nil {
			m.add("CATRACA_ALERT_WEBHOOK: %w", err)
		}
	}
	if c.WebhookSecret.IsSet() {
		if _, err := notify.NewSigner(list(c.WebhookSecret.Reveal())); err != nil {
			m.add("CATRACA_WEBHOOK_SECRET: %w", err)
		}
	}
	for _, address := range list(c.AlertEmail) {
		if err := notify.CheckAddress(address); err != nil {
			m.add("CATRACA_ALERT_EMAIL: %w", err)
		}
	}
	if c.AlertLanguage != "pt-BR" && c.AlertLanguage != "en" {
		m.add("CATRACA_ALERT_LANGUAGE=%q: write pt-BR or en", c.AlertLanguage)
		return
	}
	switch {
	case c.SMTPURL.IsSet():
		if _, err := c.mailer(); err != nil {
			m.add("CATRACA_SMTP_URL, CATRACA_SMTP_FROM: %w", err)
		}
	case c.origin["CATRACA_SMTP_URL"] == unreadable:
	case c.AlertEmail != "":
		m.add("CATRACA_ALERT_EMAIL is set and CATRACA_SMTP_URL is not: name the mail server")
	case c.SMTPFrom != "":
		m.add("CATRACA_SMTP_FROM is set and CATRACA_SMTP_URL is not: name the mail server")
	}
}

// webhookRules say where webhooks may go.
func (c *Config) webhookRules() (*notify.Rules, error) {
	r := &notify.Rules{AllowHTTP: c.WebhookAllowHTTP}
	for _, text := range list(c.WebhookAllowPrivate) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return r, fmt.Errorf("CATRACA_WEBHOOK_ALLOW_PRIVATE: %q is not a network: write prefixes such as 10.20.0.0/16, separated by commas", text)
		}
		r.AllowPrivate = append(r.AllowPrivate, prefix)
	}
	for _, text := range list(c.WebhookPorts) {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return r, fmt.Errorf("CATRACA_WEBHOOK_PORTS: %q is not a port: write numbers from 1 to 65535, separated by commas", text)
		}
		r.AllowPorts = append(r.AllowPorts, int(port))
	}
	return r, nil
}

// webhookSecrets are what webhooks are signed with, newest first: made from the master key where none is set.
func (c *Config) webhookSecrets(vault *tenancy.Vault) []string {
	secrets := list(c.WebhookSecret.Reveal())
	if len(secrets) == 0 {
		for _, key := range vault.Derive("webhooks") {
			secrets = append(secrets, "whsec_"+base64.StdEncoding.EncodeToString(key))
		}
	}
	return secrets
}

// webhook makes what sends webhooks.
func (c *Config) webhook(secrets []string) (*notify.Webhook, error) {
	rules, err := c.webhookRules()
	if err != nil {
		return nil, err
	}
	return notify.NewWebhook(notify.WebhookOptions{Rules: *rules, Secrets: secrets})
}

func (c *Config) mailer() (*notify.Mailer, error) {
	return notify.NewMailer(notify.MailOptions{URL: c.SMTPURL.Reveal(), From: c.SMTPFrom, Language: c.AlertLanguage})
}
