package dashboard

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"github.com/catraca/catraca/metering"
)

// ExportedCall is one row of the log, whole but for the person.
type ExportedCall struct {
	Call
	AudioInputTokens  int64     `json:"audio_input_tokens"`
	AudioOutputTokens int64     `json:"audio_output_tokens"`
	OverheadUs        int64     `json:"overhead_us" doc:"Our own share of the time before the upstream was called."`
	UpstreamID        string    `json:"upstream_id,omitempty"`
	RecordedAt        time.Time `json:"recorded_at"`
}

func exportedCall(r *metering.UsageRow, names map[uuid.UUID]string) ExportedCall {
	return ExportedCall{
		Call: callBody(r, names), AudioInputTokens: r.AudioInput, AudioOutputTokens: r.AudioOutput, OverheadUs: r.OverheadUs,
		UpstreamID: r.UpstreamID, RecordedAt: utc(r.RecordedAt),
	}
}

func (s *server) exportRoutes() {
	if s.Ledger == nil {
		return
	}
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/export", "export-calls", "The log, call by call", "usage", fails(http.StatusNotFound), streams("text/csv", "application/x-ndjson"),
		describe("Oldest first, as the log was when the export began; amounts are exact decimals, and their sums are those of the roll-ups. "+
			"An export that breaks off ends its connection in the middle of a chunk, so that it cannot be taken for a whole one.")), s.exportCalls)
}

func (s *server) exportCalls(ctx context.Context, in *struct {
	Span
	Format string `query:"format" enum:"csv,jsonl" default:"csv" doc:"csv, or JSON lines with the fields of GET /api/usage."`
},
) (*huma.StreamResponse, error) {
	q := metering.ExportQuery{ClientID: in.ClientID, From: in.From, To: in.To}
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return nil, huma.Error422UnprocessableEntity("to is before from; exchange them", &huma.ErrorDetail{Location: "query.to", Message: "is before from"})
	}
	names, err := s.tenantNames(ctx)
	if err != nil {
		return nil, err
	}
	if in.Format == "jsonl" {
		return s.stream("application/x-ndjson", "catraca-usage.jsonl", func(w rowWriter) error {
			return s.Ledger.Export(ctx, q, func(r *metering.UsageRow) error { return w.json(exportedCall(r, names)) })
		}), nil
	}
	return s.stream("text/csv; charset=utf-8; header=present", "catraca-usage.csv", func(w rowWriter) error {
		columns := columnsOf(reflect.TypeFor[ExportedCall]())
		out := csv.NewWriter(w.out)
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = c.name
		}
		if err := out.Write(row); err != nil {
			return err
		}
		err := s.Ledger.Export(ctx, q, func(r *metering.UsageRow) error {
			call := reflect.ValueOf(exportedCall(r, names))
			for i, c := range columns {
				row[i] = cell(call.FieldByIndex(c.index))
			}
			return out.Write(row)
		})
		if err != nil {
			return err // and what is not on its way yet stays here
		}
		out.Flush()
		return out.Error()
	}), nil
}

// streams says for the document what a route sends.
func streams(types ...string) func(*huma.Operation) {
	return func(op *huma.Operation) {
		content := map[string]*huma.MediaType{}
		for _, t := range types {
			content[t] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
		}
		op.Responses = map[string]*huma.Response{"200": {Description: http.StatusText(http.StatusOK), Content: content}}
	}
}

// rowWriter takes rows on their way out.
type rowWriter struct {
	out *bufio.Writer
}

func (w rowWriter) json(row any) error {
	text, err := json.Marshal(row)
	if err != nil {
		return err
	}
	_, err = w.out.Write(append(text, '\n'))
	return err
}

const (
	streamBuffer   = 64 << 10
	streamPatience = time.Minute // with a reader that takes nothing: the database keeps a snapshot for it
)

// patient is a connection whose reader may be slow, but not forever.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	began   bool
}

func (p *patient) Write(b []byte) (int, error) {
	p.began = true
	// Where there are no deadlines, in tests, there is nobody slow either.
	_ = p.control.SetWriteDeadline(time.Now().Add(streamPatience))
	return p.ResponseWriter.Write(b)
}

// stream answers with rows as they come. What fails before the first of them has left is an error like any other; after
// that all that can be done is to break off.
func (s *server) stream(contentType, fileName string, write func(rowWriter) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		to := &patient{ResponseWriter: w, control: http.NewResponseController(w)}
		out := bufio.NewWriterSize(to, streamBuffer)
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Disposition", `attachment; filename="`+fileName+`"`)
		err := write(rowWriter{out})
		if err == nil {
			err = out.Flush()
		}
		switch {
		case err == nil:
			_ = to.control.SetWriteDeadline(time.Time{}) // the connection is for others now
		case to.began:
			if hc.Context().Err() == nil {
				s.Log.Error("admin API: an export broke off", "file", fileName, "error", err)
			}
			panic(http.ErrAbortHandler)
		default:
			w.Header().Del("Content-Disposition")
			var status huma.StatusError
			if errors.As(s.fail(hc.Context(), "export", err), &status) {
				problem(w, status.GetStatus(), status.Error())
			}
		}
	}}
}

// column is a field of a row, by its name in JSON.
type column struct {
	name  string
	index []int
}

// columnsOf lists the fields of a row, those of embedded rows first.
func columnsOf(row reflect.Type) (columns []column) {
	for _, f := range reflect.VisibleFields(row) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && !f.Anonymous {
			columns = append(columns, column{name, f.Index})
		}
	}
	return columns
}

// number matches what is a number to every spreadsheet.
var number = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

// cell writes a field so that a spreadsheet shows it and never runs it: a text that begins like a formula gets an
// apostrophe, and texts are what callers and providers chose.
func cell(field reflect.Value) string {
	switch v := field.Interface().(type) {
	case string:
		if v != "" && strings.ContainsAny(v[:1], "=+-@\t\r\n") && !number.MatchString(v) ||
			strings.HasPrefix(v, "＝") || strings.HasPrefix(v, "＋") || strings.HasPrefix(v, "－") || strings.HasPrefix(v, "＠") {
			return "'" + v
		}
		return v
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return v.Format(time.RFC3339Nano)
	case uuid.UUID:
		if v == uuid.Nil {
			return ""
		}
		return v.String()
	}
	panic("BUG: an export has a column of type " + field.Type().String())
}
