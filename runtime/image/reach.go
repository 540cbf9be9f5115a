package image

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reach decides where a pull may connect to. It is the registry that the reference names,
// wherever that is, and what is public. A registry that names another place, by a redirect
// or as the place of its tokens, could else use the daemon to get at what only this host
// or its network can reach. So each such place is judged by the address that is dialled: a
// name may resolve to anything, and to something else at the next time.
//
// Where a proxy is set the proxy is dialled, and names are its matter; what is plainly an
// address of the inside is refused then, too.
type reach struct {
	registry string // HOST or HOST:PORT
	config   *registryConfig

	mu      sync.Mutex
	answers map[netip.Addr]bool // addresses at which the registry has answered
	proxies map[string]bool     // HOST:PORT
}

// insideError says that a registry has named an address that is none of its business.
type insideError struct{ from, to, address string }

func (e *insideError) Error() string {
	return fmt.Sprintf("%s sends to %s, which is not allowed: it is %s, an address of this host or of a private network (to allow it, list it as one of the insecure-registries in the file of --registry-config)", e.from, e.to, e.address)
}

// newTransport is the transport of a pull. Connections are not shared with other pulls,
// which may be allowed to go elsewhere.
func newTransport(r *reach) http.RoundTripper {
	return &http.Transport{
		Proxy:                  r.proxy,
		DialContext:            r.dial,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    fetchers,
		IdleConnTimeout:        10 * time.Second,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  stallBound,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
	}
}

// proxy is the proxy of the environment, which is remembered: it may be dialled.
func (r *reach) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.proxies == nil {
			r.proxies = map[string]bool{}
		}
		r.proxies[hostPort(u)] = true
	}
	return u, err
}

// request refuses what needs no dial to be refused, and has it remembered where the
// registry itself answers.
func (r *reach) request(req *http.Request) (*http.Request, error) {
	u, err := r.proxy(req)
	if err != nil {
		return nil, err
	}
	host := plainName(req.URL.Hostname())
	if ip, err := netip.ParseAddr(host); (err == nil && inside(ip) || isLocalhost(host)) && host != plainName(hostname(r.registry)) && !r.listed(hostPort(req.URL)) {
		return nil, &insideError{r.registry, req.URL.Host, host}
	}
	if u != nil || !r.own(hostPort(req.URL)) {
		return req, nil
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if a, err := netip.ParseAddrPort(i.Conn.RemoteAddr().String()); err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.answers == nil {
				r.answers = map[netip.Addr]bool{}
			}
			r.answers[a.Addr().Unmap()] = true
		}
	}})), nil
}

func (r *reach) dial(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	r.mu.Lock()
	proxy := r.proxies[to]
	r.mu.Unlock()
	if !proxy {
		d.Control = func(_, address string, _ syscall.RawConn) error { return r.allow(to, address) }
	}
	return d.DialContext(ctx, network, to)
}

// allow says why a connection to a host, HOST:PORT, may not go to an address that its name
// has.
func (r *reach) allow(to, address string) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	ip := a.Addr().Unmap().WithZone("")
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return err
	}
	host = plainName(host)
	refused := &insideError{r.registry, to, ip.String()}
	if isLocalhost(host) && !ip.IsLoopback() {
		return fmt.Errorf("%s is %s, which is not this host", to, ip) // it is spoken to without TLS
	}
	if r.own(to) || r.listed(to) {
		return nil
	}
	this, err := ofThisHost(ip)
	if err != nil {
		return err
	}
	r.mu.Lock()
	answers := r.answers[ip]
	r.mu.Unlock()
	switch {
	case !this && !inside(ip):
		return nil
	case answers && (host == plainName(hostname(r.registry)) || !this):
		// Another port, or name, of the registry itself.
		return nil
	}
	return refused
}

// own reports whether HOST:PORT is the registry.
func (r *reach) own(to string) bool {
	for _, scheme := range []string{"https", "http"} {
		if hostPort(&url.URL{Scheme: scheme, Host: r.registry}) == strings.ToLower(to) {
			return true
		}
	}
	return false
}

// listed reports whether HOST:PORT was allowed.
func (r *reach) listed(to string) bool {
	return slices.ContainsFunc(r.config.Insecure, func(h string) bool {
		return (&reach{registry: h}).own(to)
	})
}

func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// hostPort is HOST:PORT of a URL, also if the port is that of the scheme.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(plainName(u.Hostname()), port)
}

// plainName is a name as it can be compared.
func plainName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// special are the addresses that are nowhere in the public network, besides those that
// package netip knows.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("64:ff9b:1::/48"),
}

// translated are those that stand for an address of IPv4, and where that is in them.
var translated = []struct {
	prefix netip.Prefix
	at     int
}{{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12}}

// inside reports whether an address is one that only this host, or its network, can
// reach.
func inside(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return true
	}
	for _, p := range special {
		if p.Contains(ip) {
			return true
		}
	}
	for _, t := range translated {
		if t.prefix.Contains(ip) {
			b := ip.As16()
			return inside(netip.AddrFrom4([4]byte(b[t.at : t.at+4])))
		}
	}
	return false
}

// ofThisHost reports whether an address is one of this host, whatever its kind.
func ofThisHost(ip netip.Addr) (bool, error) {
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return true, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("addresses of this host: %w", err)
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == ip
	}), nil
}
