package main

import (
	"context"
	"net/http"
	"time"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// gatewayModels reads the gateway's list of models for the admin API; nil when the gateway is switched off.
func gatewayModels(cfg *Config) dashboard.GatewayModels {
	if !cfg.EnableGateway {
		return nil
	}
	client := &http.Client{Timeout: time.Minute}
	return func(ctx context.Context) ([]metering.GatewayModel, []metering.BadRow, error) {
		return metering.FetchGatewayModels(ctx, client, cfg.GatewayBaseURL, cfg.GatewayKey.Reveal())
	}
}
