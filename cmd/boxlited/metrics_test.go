package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sirupsen/logrus"
)

func TestMetricsAddress(t *testing.T) {
	for addr, ok := range map[string]bool{
		"": true, "127.0.0.1:9120": true, "[::1]:0": true, "localhost:1": true, "0.0.0.0:65535": true, "[::]:9120": true,
		"9120": false, ":9120": false, "127.0.0.1": false, "127.0.0.1:": false, "127.0.0.1:65536": false, "127.0.0.1:-1": false,
		"127.0.0.1:http": false, "example.com:9120": false, "::1:9120": false, "[127.0.0.1]x:1": false, "1.2.3:1": false,
	} {
		if err := checkListen(addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestOnlyMetricsAreServed(t *testing.T) {
	reg := newRegistry(newLogQueue(io.Discard))
	h := metricsHandler(reg, reg, nil)
	for request, want := range map[[2]string]int{
		{http.MethodGet, "/metrics"}: 200, {http.MethodHead, "/metrics"}: 200, {http.MethodPost, "/metrics"}: 405,
		{http.MethodGet, "/"}: 404, {http.MethodGet, "/metrics/x"}: 404, {http.MethodGet, "/debug/pprof/"}: 404,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(request[0], request[1], nil))
		if w.Code != want {
			t.Errorf("%s: %d, not %d", request, w.Code, want)
		}
	}
}

// net/http would go on after a panic, with whatever it left.
func TestAPanicOfAScrapeIsTheEnd(t *testing.T) {
	var met []any
	var stacks [][]byte
	serve := func(value any) (escaped any) {
		defer func() { escaped = recover() }()
		h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if value != nil {
				panic(value)
			}
		})
		end := func(v any, stack []byte) { met, stacks = append(met, v), append(stacks, stack) }
		dieOnPanic(h, end).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return nil
	}
	if v := serve(nil); v != nil || len(met) > 0 {
		t.Errorf("a scrape that ends well panics with %v, ends the daemon with %v", v, met)
	}
	// What a handler says this way when its client is gone is no bug.
	if v, _ := serve(http.ErrAbortHandler).(error); !errors.Is(v, http.ErrAbortHandler) || len(met) > 0 {
		t.Errorf("a client that goes: net/http is told %v, the daemon ends with %v", v, met)
	}
	bug := errors.New("a bug")
	if serve(bug); !slices.Equal(met, []any{bug}) {
		t.Fatalf("the daemon ends with %v", met)
	}
	if !bytes.Contains(stacks[0], []byte("TestAPanicOfAScrapeIsTheEnd")) {
		t.Errorf("the stack is not that of the panic:\n%s", stacks[0])
	}
}

type brokenGatherer struct{}

func (brokenGatherer) Gather() ([]*dto.MetricFamily, error) { panic("a bug") }

func TestABugInAScrapeEndsTheDaemon(t *testing.T) {
	if os.Getenv("BOXLITE_TEST_BUG") != "" {
		log := logrus.New()
		l, err := listen("127.0.0.1:0", logrus.NewEntry(log))
		if err != nil {
			t.Fatal(err)
		}
		l.serve(brokenGatherer{}, prometheus.NewRegistry())
		_, err = http.Get("http://" + l.Addr().String() + "/metrics") //nolint:bodyclose // there is none
		t.Fatalf("it goes on, and the scrape says %v", err)
	}
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	c.Env = append(os.Environ(), "BOXLITE_TEST_BUG=1")
	out, err := c.CombinedOutput()
	if c.ProcessState == nil || c.ProcessState.ExitCode() != exitBug || !bytes.Contains(out, []byte("a bug: a request has panicked")) {
		t.Errorf("it ends with %v, says\n%s", err, out)
	}
}
