package config

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// Kind returns what a probe does: ping, command, tcp or http.
func (h *HealthCheck) Kind() string {
	switch {
	case len(h.Command) > 0:
		return "command"
	case h.TCP != 0:
		return "tcp"
	case h.HTTP != "":
		return "http"
	}
	return "ping"
}

// Pings reports whether probes are made that need nothing but the shim's word.
func (h *HealthCheck) Pings() bool { return !h.Disabled && h.Kind() == "ping" }

// Probe returns what the shim is to do at each probe: nothing if that is a ping, or if the checks
// are off.
func (h *HealthCheck) Probe() (wire.Probe, error) {
	p := wire.Probe{TimeoutNs: h.Timeout.Nanoseconds()}
	if h.Disabled {
		return wire.Probe{}, nil
	}
	switch h.Kind() {
	case "command":
		p.Kind, p.Argv = wire.ProbeCommand, h.Command
	case "tcp":
		p.Kind, p.Port = wire.ProbeTCP, h.TCP
	case "http":
		addr, port, request, err := parseProbeURL(h.HTTP)
		if err != nil {
			return p, err
		}
		p.Kind, p.Addr, p.Port, p.Request = wire.ProbeHTTP, addr, port, request
	default:
		return wire.Probe{}, nil
	}
	return p, nil
}

// parseProbeURL turns a URL into what a shim needs, which has no resolver: an
// address, or none for the loopback, a port, and the request.
func parseProbeURL(text string) (addr string, port uint16, request string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", 0, "", errors.New("is no URL")
	}
	switch {
	case u.Scheme != "http":
		return "", 0, "", errors.New("does not begin with http://")
	case u.User != nil || u.Fragment != "":
		return "", 0, "", errors.New("has a user or a fragment")
	}
	port = 80
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, "", errors.New("has a port that is none")
		}
		port = uint16(n)
	}
	if host := u.Hostname(); host != "localhost" {
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.Zone() != "" {
			return "", 0, "", errors.New("names a host that is neither localhost nor an address")
		}
		addr = ip.String()
	}
	return addr, port, "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nUser-Agent: boxlite\r\nConnection: close\r\n\r\n", nil
}
