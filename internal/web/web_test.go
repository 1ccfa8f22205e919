package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

func TestTenantOfARequest(t *testing.T) {
	for _, tc := range []struct {
		headers  []string
		required bool
		want     schema.Tenant
		status   int
	}{
		{nil, false, schema.Anonymous, 0},
		{nil, true, "", 401},
		{[]string{"team-a"}, true, "team-a", 0},
		{[]string{""}, false, "", 401},
		{[]string{"a", "b"}, false, "", 400},
		{[]string{".."}, false, "", 400},
		{[]string{"a/b"}, false, "", 400},
		{[]string{"a|b"}, false, "", 400},
		{[]string{"__reserved"}, false, "", 400},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["X-Scope-Orgid"] = tc.headers
		got, err := Tenancy{Required: tc.required}.Tenant(r)
		if tc.status == 0 {
			require.NoError(t, err, "%q", tc.headers)
			require.Equal(t, tc.want, got)
			continue
		}
		var se *schema.Error
		require.ErrorAs(t, err, &se, "%q", tc.headers)
		require.Equal(t, tc.status, se.Status)
	}
}

func TestErrorAnswers(t *testing.T) {
	answer := func(ctx context.Context, err error) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		Error(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), err)
		return w
	}
	w := answer(context.Background(), schema.Unavailable(schema.ErrLogDown, errors.New("broker\r\nX: y"), "the log is away"))
	require.Equal(t, 503, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Equal(t, "the log is away: broker  X: y (err-sluice-log-unavailable)\n", w.Body.String())
	require.Equal(t, 500, answer(context.Background(), errors.New("what")).Code)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, 499, answer(gone, context.Canceled).Code)
}

// A request under way when the server is told to stop is finished.
func TestServerDrains(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := New(Config{Listen: "127.0.0.1:0"}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		w.WriteHeader(http.StatusNoContent)
	}), slog.New(slog.DiscardHandler))
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	status := make(chan int, 1)
	go func() {
		resp, err := (&http.Client{Timeout: 20 * time.Second}).Get("http://" + s.Addr())
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	<-entered
	cancel()
	close(leave)
	require.Equal(t, http.StatusNoContent, <-status)
	require.ErrorIs(t, <-stopped, context.Canceled)

	taken := New(Config{Listen: "256.0.0.1:1"}, nil, slog.New(slog.DiscardHandler))
	require.Error(t, taken.Listen())
}
