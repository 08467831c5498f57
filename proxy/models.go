package proxy

import (
	"encoding/json"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/metering"
)

// listedModel is a model in OpenAI's shape.
type listedModel struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	// ShutdownDate is OpenAI's own field for a model whose end is announced.
	ShutdownDate string `json:"shutdown_date,omitempty"`
}

func listed(m *metering.Model) listedModel {
	l := listedModel{ID: m.GatewayID, Object: "model", Created: m.CreatedAt.Unix(), OwnedBy: m.Provider}
	if !m.RetiresAt.IsZero() {
		l.ShutdownDate = m.RetiresAt.Format("2006-01-02")
	}
	return l
}

// listModels answers GET /v1/models and /v1/models/{id} from the registry: the models that this tenant may use.
func (c *call) listModels() error {
	var answer any
	if c.ep.index == epModel {
		id, err := modelID(c.rest)
		if err != nil {
			return err
		}
		m, err := c.permitted(id)
		if err != nil || m == nil {
			return modelNotFound(id) // what a tenant may not use does not exist for it
		}
		one := listed(m)
		one.ID = id // as it was asked for, with or without its creator
		answer = one
	} else {
		list := []listedModel{}
		for _, m := range c.p.Prices.Catalog().Models() {
			if m.Active && (c.who.Allows(m.GatewayID) || c.who.Allows(m.Name)) {
				list = append(list, listed(m))
			}
		}
		answer = struct {
			Object string        `json:"object"`
			Data   []listedModel `json:"data"`
		}{"list", list}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	resp := &c.ctx.Response
	resp.SetStatusCode(fasthttp.StatusOK)
	resp.Header.SetContentType("application/json")
	resp.Header.SetCanonical(headerRequestID, c.idBytes())
	resp.SetBody(body)
	return nil
}
