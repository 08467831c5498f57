package simulator

import (
	"bytes"
	"encoding/base64"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"strings"
)

// images serves POST images/generations.
func (c *call) images() {
	var r struct {
		Model          string `json:"model"`
		Prompt         string `json:"prompt"`
		N              *int   `json:"n"`
		Size           string `json:"size"`
		Quality        string `json:"quality"`
		ResponseFormat string `json:"response_format"`
	}
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		r.Model = "dall-e-3"
	}
	if !c.begin(r.Model, false, []byte(r.Prompt), []byte(r.Size)) {
		return
	}
	n := 1
	if r.N != nil {
		n = *r.N
	}
	old := strings.Contains(c.base, "dall-e")
	if r.Prompt == "" || n < 1 || n > 10 || strings.Contains(c.base, "dall-e-3") && n > 1 {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "prompt", message: "Invalid 'prompt' or 'n'."})
		return
	}
	data := list{}
	for i := range n {
		picture := c.picture(i)
		entry := object{"b64_json", base64.StdEncoding.EncodeToString(picture)}
		if old && r.ResponseFormat != "b64_json" {
			entry = object{"url", "http://" + c.r.Host + "/_picture/" + c.letters("picture", hexLower, 16) + ".png"}
		}
		if old {
			entry = object{"revised_prompt", r.Prompt}.with(entry[0].(string), entry[1])
		}
		data = append(data, entry)
	}
	u := usage{images: int64(n)}
	body := object{"created", c.created(), "data", data}
	if old {
		// The older models bill by the piece and say nothing of it.
		c.reply(body, u)
		return
	}
	u.prompt, u.output = max(1, countTokens(len(r.Prompt))), int64(n)*imageTokens(r.Quality)
	body = object{
		"created", c.created(), "background", "opaque", "data", data, "output_format", "png",
		"quality", orDefault(r.Quality, "medium"), "size", orDefault(r.Size, "1024x1024"),
	}
	if !c.traits.has("no-usage") {
		body = body.with("usage", c.spoil(object{
			"input_tokens", u.prompt, "input_tokens_details",
			object{"image_tokens", 0, "text_tokens", u.prompt},
			"output_tokens", u.output, "total_tokens", u.total(),
		}))
		c.tell(u)
	}
	if c.route == gateway {
		cost, id := c.market(u).String(), "gen_"+c.ulid()
		c.remember(id, "stop", false, u)
		body = body.with("providerMetadata", object{"gateway", object{"cost", cost, "marketCost", cost, "generationId", id}})
	}
	c.reply(body, u)
}

// imageTokens is what a square picture costs, by quality.
func imageTokens(quality string) int64 {
	switch quality {
	case "low":
		return 272
	case "high":
		return 4160
	}
	return 1056
}

func orDefault(s, otherwise string) string {
	if s == "" || s == "auto" {
		return otherwise
	}
	return s
}

// picture is a small PNG of one colour.
func (c *call) picture(i int) []byte {
	d := c.dice + dice(i)
	n := d.next()
	m := image.NewPaletted(image.Rect(0, 0, 8, 8), color.Palette{color.RGBA{uint8(n), uint8(n >> 8), uint8(n >> 16), 255}})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic("BUG: a picture of one colour can be encoded: " + err.Error())
	}
	return b.Bytes()
}
