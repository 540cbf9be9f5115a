package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
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
