package simulator

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The cost of an answer here is a cost of every test that uses it.
func BenchmarkChat(b *testing.B) {
	s := New(Config{})
	for name, more := range map[string]string{"plain": "", "streamed": streamed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(chatBody("openai/gpt-4o", more)))
				r.Header.Set("Authorization", "Bearer x")
				s.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
