package main

import (
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	goruntime "runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
)

// newRegistry returns the registry of all metrics, with those of the process.
func newRegistry(log *logQueue) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "boxlite_build_info", Help: "What the daemon was built from: 1, with its version.",
			ConstLabels: prometheus.Labels{"version": version, "commit": commit, "goversion": goruntime.Version()},
		}, func() float64 { return 1 }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "boxlite_log_dropped_lines_total", Help: "Lines of the daemon's log that were dropped, since nobody read it.",
		}, func() float64 { return float64(log.Dropped()) }),
	)
	return reg
}

// checkListen says what is wrong with the address of --metrics-listen. "" is none.
func checkListen(addr string) error {
	if addr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		return fmt.Errorf("--metrics-listen %q: must be an IP address or localhost, and a port, like 127.0.0.1:9120 or [::1]:9120", addr)
	}
	return nil
}

// metricsListener serves the metrics over HTTP; without a listener it does nothing.
type metricsListener struct {
	net.Listener
	server http.Server
	log    *logrus.Entry
}

// Limits of the HTTP server. A scrape is small and comes every few seconds; nothing else
// is to be had.
const (
	maxScrapes   = 8               // at once; more are told to come later (503)
	maxConns     = 64              // at once, each a descriptor; more wait to be accepted
	headBound    = 5 * time.Second // of the first request of a connection, too
	scrapeBound  = 30 * time.Second
	idleBound    = 2 * time.Minute // of a kept connection: longer than most intervals
	maxHeadBytes = 16 << 10
)

// listen takes the address, which may be "" for none.
func listen(addr string, log *logrus.Entry) (*metricsListener, error) {
	l := &metricsListener{log: log.WithField("op", "metrics")}
	if addr == "" {
		return l, nil
	}
	var err error
	network := "tcp"
	if host, _, herr := net.SplitHostPort(addr); herr == nil {
		if ip, perr := netip.ParseAddr(host); perr == nil && ip.Is4() {
			network = "tcp4" // 0.0.0.0 would mean every address of IPv6, too
		}
	}
	if l.Listener, err = net.Listen(network, addr); err != nil {
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	l.log = l.log.WithField("address", l.Addr().String())
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		l.log.Warn("the metrics are to be had without authentication by all who reach this address")
	}
	return l, nil
}

// serve answers scrapes of what g gathers from now on until Close.
func (l *metricsListener) serve(g prometheus.Gatherer, reg prometheus.Registerer) {
	if l.Listener == nil {
		return
	}
	errs := stdlog.New(l.log.WriterLevel(logrus.WarnLevel), "", 0)
	l.server = http.Server{
		Handler: dieOnPanic(metricsHandler(g, reg, errs), exitOnPanic(l.log)), ErrorLog: errs, MaxHeaderBytes: maxHeadBytes,
		ReadHeaderTimeout: headBound, ReadTimeout: headBound, WriteTimeout: scrapeBound, IdleTimeout: idleBound,
	}
	l.log.Info("serving metrics")
	go func() {
		if err := l.server.Serve(netutil.LimitListener(l.Listener, maxConns)); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			l.log.WithError(err).Error("metrics are no longer served over HTTP")
		}
	}()
}

// Close lets the address go, and whoever is being served.
func (l *metricsListener) Close() {
	if l.Listener == nil {
		return
	}
	if err := errors.Join(l.server.Close(), l.Listener.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
		l.log.WithError(err).Warn("not closed")
	}
}

// dieOnPanic keeps net/http from going on after a panic of h, as if nothing were the
// matter: see fsapi.FS.OnPanic.
func dieOnPanic(h http.Handler, end func(value any, stack []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // the client is gone
			}
			if v != nil {
				end(v, debug.Stack())
			}
		}()
		h.ServeHTTP(w, r)
	})
}

func metricsHandler(g prometheus.Gatherer, reg prometheus.Registerer, errs *stdlog.Logger) http.Handler {
	opts := promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, Registry: reg, MaxRequestsInFlight: maxScrapes}
	if errs != nil {
		opts.ErrorLog = errs
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, opts))
	return mux
}
