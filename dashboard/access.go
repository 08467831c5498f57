package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// authenticated lets only the bearer of the token in, and notes who acts for the audit log.
func (s *server) authenticated(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.Token))
	// A name for the audit log that tells tokens apart and gives none away.
	actor := "admin:" + hex.EncodeToString(want[:4])
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if isPublic(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		// Digests have one length, so that the time tells nothing about the token's.
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if !strings.EqualFold(scheme, "bearer") || s.Token == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="catraca admin"`)
			problem(w, http.StatusUnauthorized, "the admin token is missing or wrong: send it as Authorization: Bearer …; it is CATRACA_ADMIN_TOKEN, or the content of admin-token in the data directory")
			return
		}
		next.ServeHTTP(w, r.WithContext(tenancy.WithActor(r.Context(), actor)))
	})
}

// isPublic lists what needs no token: it holds nothing but what the source code says as well.
func isPublic(path string) bool {
	return path == "/" || path == "/api/openapi.json" || path == "/api/openapi.yaml"
}

// sameOrigin refuses what a browser sends on behalf of another site.
func (s *server) sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusForbidden, "this request comes from a page of another site; use the API from its own origin or from a program")
	}))
	return protection.Handler(next)
}

// recovered turns a panic into an answer; one request must not end the process that meters all of them.
func (s *server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause)
			}
			id := faultID()
			s.Log.Error("admin API: panic", "fault", id, "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			problem(w, http.StatusInternalServerError, insideFault(id))
		}()
		next.ServeHTTP(w, r)
	})
}

// noSuchRoute answers what no route takes, and tells a wrong method from a wrong path.
func noSuchRoute(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			probe := r.Clone(r.Context())
			probe.Method = method
			if _, pattern := mux.Handler(probe); pattern != "/" && pattern != "" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) > 0 && !slices.Contains(allowed, r.Method) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			problem(w, http.StatusMethodNotAllowed, "this path takes "+strings.Join(allowed, ", ")+"; see /api/openapi.json")
			return
		}
		problem(w, http.StatusNotFound, "no such path; /api/openapi.json lists all there are")
	}
}

// problem writes an error outside of huma's routes, in the same form.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
}

// fail turns an error of a store into one for the caller. what names the thing in the words of the API.
func (s *server) fail(ctx context.Context, what string, err error) error {
	var invalid *tenancy.Invalid
	var already huma.StatusError
	switch {
	case errors.As(err, &already):
		return err
	case errors.As(err, &invalid):
		return huma.Error422UnprocessableEntity(what+" is not valid: "+invalid.Error(), &huma.ErrorDetail{Location: "body." + invalid.Field, Message: invalid.Reason})
	case errors.Is(err, tenancy.ErrNotFound), errors.Is(err, metering.ErrUnknownModel):
		return huma.Error404NotFound("there is no such " + what + "; list them to find the id")
	case errors.Is(err, tenancy.ErrExists):
		return huma.Error409Conflict("this " + what + " exists already; change it instead of creating it")
	case errors.Is(err, tenancy.ErrConflict):
		return huma.Error409Conflict("somebody else changed this " + what + " in the meantime; read it again and repeat the change")
	case ctx.Err() != nil:
		return huma.NewError(http.StatusServiceUnavailable, "the request ended before there was an answer; try again")
	case errors.Is(err, tenancy.ErrUnavailable):
		s.Log.Error("admin API: store unavailable", "about", what, "error", err)
		return huma.Error503ServiceUnavailable("the database does not answer; try again, and if it stays so, catraca doctor finds out why")
	}
	id := faultID()
	s.Log.Error("admin API: fault", "fault", id, "about", what, "error", err)
	return huma.Error500InternalServerError(insideFault(id))
}

func insideFault(id string) string {
	return "something failed inside; the log has it under fault " + id
}

// faultID ties an answer to a line in the log.
func faultID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
