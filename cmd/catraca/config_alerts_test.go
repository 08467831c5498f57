package main

import (
	"strings"
	"testing"
)

const goodHookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestAlertSettings(t *testing.T) {
	for _, tc := range []struct {
		set  []string
		want string // in the one line of the error; empty: none
	}{
		{[]string{"CATRACA_ALERT_WEBHOOK=https://hooks.example/x", "CATRACA_WEBHOOK_SECRET=" + goodHookSecret}, ""},
		{[]string{"CATRACA_ALERT_WEBHOOK=http://hooks.example/x"}, "CATRACA_ALERT_WEBHOOK"},
		{[]string{"CATRACA_ALERT_WEBHOOK=http://hooks.example/x", "CATRACA_WEBHOOK_ALLOW_HTTP=true"}, ""},
		{[]string{"CATRACA_ALERT_WEBHOOK=https://10.20.1.1/x"}, "CATRACA_ALERT_WEBHOOK"},
		{[]string{"CATRACA_ALERT_WEBHOOK=https://10.20.1.1/x", "CATRACA_WEBHOOK_ALLOW_PRIVATE=10.20.0.0/16"}, ""},
		{[]string{"CATRACA_ALERT_WEBHOOK=https://hooks.example:8443/x"}, "CATRACA_ALERT_WEBHOOK"},
		{[]string{"CATRACA_ALERT_WEBHOOK=https://hooks.example:8443/x", "CATRACA_WEBHOOK_PORTS=8443"}, ""},
		{[]string{"CATRACA_WEBHOOK_ALLOW_PRIVATE=10.20.0.0"}, "CATRACA_WEBHOOK_ALLOW_PRIVATE"},
		{[]string{"CATRACA_WEBHOOK_PORTS=0"}, "CATRACA_WEBHOOK_PORTS"},
		{[]string{"CATRACA_WEBHOOK_SECRET=secret"}, "CATRACA_WEBHOOK_SECRET"},
		{[]string{"CATRACA_ALERT_EMAIL=ops@example.com"}, "CATRACA_SMTP_URL"},
		{[]string{"CATRACA_ALERT_EMAIL=ops", "CATRACA_SMTP_URL=smtp://mail.example", "CATRACA_SMTP_FROM=a@example.com"}, "CATRACA_ALERT_EMAIL"},
		{[]string{"CATRACA_ALERT_EMAIL=a@example.com, b@example.com", "CATRACA_SMTP_URL=smtp://mail.example", "CATRACA_SMTP_FROM=a@example.com"}, ""},
		{[]string{"CATRACA_SMTP_URL=smtp://mail.example"}, "CATRACA_SMTP_FROM"},
		{[]string{"CATRACA_SMTP_FROM=a@example.com"}, "CATRACA_SMTP_URL"},
		{[]string{"CATRACA_ALERT_LANGUAGE=fr"}, "CATRACA_ALERT_LANGUAGE"},
		{[]string{"CATRACA_CRON_TOKEN=short"}, "CATRACA_CRON_TOKEN"},
	} {
		cfg, err := LoadConfig(tc.set)
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.Validate()
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%q: %v", tc.set, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: %v; want one line about %s", tc.set, err, tc.want)
		case err != nil && strings.Contains(err.Error(), "hooks.example/x"):
			t.Errorf("%q: the error shows what may be a secret: %v", tc.set, err)
		}
	}
}
