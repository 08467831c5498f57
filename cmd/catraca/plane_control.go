package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/link"
	"github.com/catraca/catraca/internal/notify"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// controlPlane has the database: it records usage, tells proxies what they need, serves the admin API, and keeps the
// house. While the database is away its parts wait, and proxies go on.
type controlPlane struct {
	cfg    *Config
	log    *slog.Logger
	st     *stores
	local  *link.Local
	worker *metering.Worker
	rates  *metering.Rates
	links  *link.Handler // nil: no proxies come from elsewhere
	// corrector is nil where there is no gateway to ask.
	corrector *metering.Corrector
	audited   func(metering.AuditReport) // shows the newest audit
	authority *budget.Authority
	alerts    *alerting
}

// newControlPlane builds the control plane. far says that its proxies are other processes.
func newControlPlane(cfg *Config, st *stores, vault *tenancy.Vault, far bool, metrics *prometheus.Registry, log *slog.Logger) (*controlPlane, error) {
	c := &controlPlane{cfg: cfg, log: log, st: st, authority: budget.NewAuthority(st.budgets, budget.AuthorityOptions{AliveFor: 15 * time.Second, Log: log})}
	var err error
	if c.alerts, err = newAlerting(cfg, vault, st.budgets, log); err != nil {
		return nil, err
	}
	c.rates = metering.NewRates(metering.RatesConfig{Store: st.usage, PTAXURL: cfg.PTAXURL, ERAPIURL: cfg.ExchangeRateURL, Log: log})
	c.local = link.NewLocal(link.LocalOptions{
		Tenants: st.tenants, Cache: far, Catalog: st.usage.LoadCatalog, Rate: c.rates.Now, Owners: st.usage,
		SigningKeys: st.signingKeys, Fleet: st.usage, Budgets: c.authority, Conversations: conversations{st.usage}, Log: log,
	})
	c.worker = metering.NewWorker(st.usage, st.queue, st.shards, log)
	watchWorker(metrics, c.worker)
	c.audited = watchAudit(metrics)
	if cfg.EnableGateway && cfg.GatewayKey.IsSet() {
		gateway := metering.NewGatewayGenerations(&http.Client{Timeout: 30 * time.Second}, cfg.GatewayBaseURL, cfg.GatewayKey.Reveal())
		c.corrector = metering.NewCorrector(st.usage, gateway, priceFrom(c.local.Prices), log)
		watchCorrector(metrics, c.corrector)
	} else if far {
		log.Warn("AI_GATEWAY_API_KEY is not set here: calls that are cut short stay estimates, for the gateway cannot be asked what they cost")
	}
	if far {
		c.links = link.NewHandler(c.local, cfg.SidecarTokens(), log)
		watchProxies(metrics, c.local, c.links)
	}
	return c, nil
}

// work records usage, once the database has answered and is the right one.
func (c *controlPlane) work(ctx context.Context) error {
	if err := c.st.await(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return c.worker.Run(ctx)
}

// auditEvery is how often the meter is checked.
const auditEvery = time.Minute

func (c *controlPlane) background() []part {
	parts := []part{c.local.Run, c.rates.Run, c.st.upkeep, func(ctx context.Context) error {
		return metering.RunAudit(ctx, c.st.usage, auditEvery, c.audited, c.log)
	}, tidyBudgets(c.authority, c.st.budgets, c.log), pruneBudgets(c.st.budgets, c.log), c.alerts.courier.Run}
	if c.links != nil { // there may be other replicas
		parts = append(parts, c.shareRate)
	}
	if c.corrector != nil {
		parts = append(parts, c.corrector.Run)
	}
	for i, run := range parts {
		parts[i] = func(ctx context.Context) error {
			if err := c.st.await(ctx); err != nil || ctx.Err() != nil {
				return err
			}
			return run(ctx)
		}
	}
	return parts
}

// rateEvery is how soon a rate that another replica fetched, or an operator set there, is in use here. A failure is not
// worth a word: the rate that is known holds, and a database that is away is said by others.
const rateEvery = 15 * time.Second

func (c *controlPlane) shareRate(ctx context.Context) error {
	tick := time.NewTicker(rateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			limit, cancel := context.WithTimeout(ctx, 5*time.Second)
			_ = c.rates.Refresh(limit)
			cancel()
		}
	}
}

// Rate is the exchange rate in force, for the dashboard.
func (c *controlPlane) Rate() metering.ExchangeRate { return c.rates.Now() }

// api is the admin API. wire is where this process listens for clients, nil where it does not.
func (c *controlPlane) api(wire net.Addr) http.Handler {
	cfg := c.cfg
	settings := dashboard.Settings{
		Embedded: cfg.Embedded(), EnableGateway: cfg.EnableGateway, TimeZone: cfg.TimeZone, UnknownModelPolicy: cfg.UnknownModelPolicy,
	}
	if wire != nil {
		settings.Listen = wire.String()
	}
	for _, p := range append([]Provider{cfg.Gateway()}, cfg.Providers()...) {
		settings.Upstreams = append(settings.Upstreams, dashboard.Upstream{Name: p.Name, BaseURL: p.BaseURL, HasKey: p.Key.IsSet()})
	}
	return dashboard.New(dashboard.Options{
		Token: cfg.AdminToken.Reveal(), Tenants: c.st.tenants, Registry: c.st.usage,
		Usage: c.st.usage, Rates: c, Settings: settings, Gateway: gatewayModels(cfg), Auditor: c.st.tenants, Meter: c.st.usage, Ledger: c.st.usage, Budgets: c.budgets(), Log: c.log, Version: buildVersion(),
	})
}

// budgets is what the admin API needs to serve budgets.
func (c *controlPlane) budgets() *dashboard.Budgets {
	store := c.st.budgets
	return &dashboard.Budgets{
		Store: store, Authority: c.authority, CheckURL: c.alerts.webhook.CheckURL, CheckAddress: notify.CheckAddress, WebhookSecret: c.alerts.secretOf,
		CheckAlerts: func(ctx context.Context) (budget.AlertsReport, error) {
			return budget.CheckAlerts(ctx, store, c.alerts.courier)
		},
		ResetPeriods: func(ctx context.Context) (budget.ResetReport, error) {
			return budget.ResetPeriods(ctx, c.authority, store)
		},
		CronToken: c.cfg.CronToken.Reveal(),
	}
}

// listen opens the port where proxies come.
func (c *controlPlane) listen(cfg *Config) (*site, error) {
	listener, err := net.Listen("tcp", cfg.ControlListen)
	if err != nil {
		return nil, fmt.Errorf("CATRACA_CONTROL_LISTEN: %w", err)
	}
	if cfg.ControlTLSCert != "" {
		certificates := &link.Certificates{Cert: cfg.ControlTLSCert, Key: cfg.ControlTLSKey, CA: cfg.ControlClientCA, Log: c.log}
		if _, _, err := certificates.Load(); err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("CATRACA_CONTROL_TLS_CERT: %w", err)
		}
		listener = tls.NewListener(listener, certificates.Server(len(cfg.SidecarTokens()) > 0))
	}
	return &site{listener: listener, server: c.links.Server()}, nil
}
