package image

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestAddressesOfTheInside(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "0.0.0.0": true, "::": true, "10.0.0.1": true, "172.16.0.1": true, "192.168.1.1": true,
		"169.254.169.254": true, "fe80::1": true, "fc00::1": true, "fd12::1": true, "100.64.0.1": true, "100.127.255.255": true, "0.1.2.3": true,
		"224.0.0.1": true, "255.255.255.255": true, "240.0.0.1": true, "198.18.0.1": true, "::ffff:10.0.0.1": true, "::ffff:127.0.0.1": true,
		"64:ff9b::a00:1": true, "2002:a00:1::": true, "::10.0.0.1": true, "64:ff9b:1::1": true, "fec0::1": true,
		"8.8.8.8": false, "100.63.0.1": false, "100.128.0.1": false, "172.32.0.1": false, "2606:4700::1111": false, "64:ff9b::808:808": false, "2002:808:808::": false, "1.1.1.1": false,
	} {
		if got := inside(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestWhereARegistryMaySendTo(t *testing.T) {
	mine := ""
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && p.Addr().Is4() {
			mine = p.Addr().String()
		}
	}
	config := &registryConfig{Insecure: []string{"10.9.9.9:5000", "listed.corp"}}
	for _, c := range []struct {
		registry, to, address string
		ok                    bool
	}{
		{"r.example", "r.example:443", "8.8.8.8:443", true},
		{"r.example", "cdn.example:443", "8.8.8.8:443", true},
		{"r.example", "cdn.example:443", "10.0.0.1:443", false},
		{"r.example", "cdn.example:443", "127.0.0.1:443", false},
		{"r.example", "cdn.example:443", "[::1]:443", false},
		{"r.example", "cdn.example:443", "169.254.169.254:443", false},
		{"r.example", "cdn.example:443", "[::ffff:10.0.0.1]:443", false},
		// The registry that was named may be anywhere.
		{"r.corp", "r.corp:443", "10.0.0.1:443", true},
		{"R.corp", "r.corp:443", "10.0.0.1:443", true},
		{"r.corp:5000", "r.corp:5000", "127.0.0.1:5000", true},
		// Another port, or name, of it is where it has answered, and nowhere else.
		{"r.corp", "r.corp:5001", "10.1.1.1:5001", true},
		{"r.corp", "r.corp:5001", "10.0.0.2:5001", false},
		{"r.corp", "auth.corp:443", "10.1.1.1:443", true},
		{"r.corp", "auth.corp:443", "10.0.0.2:443", false},
		{"localhost:5000", "localhost:5001", "127.7.7.7:5001", true},
		{"localhost:5000", "other.example:5001", "127.7.7.7:5001", false},
		// What is listed, with its port.
		{"r.example", "10.9.9.9:5000", "10.9.9.9:5000", true},
		{"r.example", "10.9.9.9:5001", "10.9.9.9:5001", false},
		{"r.example", "listed.corp:443", "10.9.9.8:443", true},
		{"r.example", "listed.corp:8443", "10.9.9.8:8443", false},
		// What may be spoken to in plain text because of its name is where the name says.
		{"localhost:5000", "localhost:5000", "8.8.8.8:5000", false},
	} {
		r := &reach{registry: c.registry, config: config, answers: map[netip.Addr]bool{netip.MustParseAddr("10.1.1.1"): true, netip.MustParseAddr("127.7.7.7"): true}}
		if err := r.allow(c.to, c.address); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if mine == "" {
		return // a machine without a network
	}
	r := &reach{registry: "r.example", config: config}
	var in *insideError
	if err := r.allow("cdn.example:443", mine+":443"); !errors.As(err, &in) {
		t.Errorf("%s: %v", mine, err)
	}
}

// The name is no address, and is not judged before it is one.
func TestWhatANameResolvesToIsJudged(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := &reach{registry: "127.0.0.1:1", config: &registryConfig{}}
	var in *insideError
	refused, err := r.dial(ctx, "tcp4", "localhost:"+port)
	if err == nil {
		t.Fatalf("connected to %s: %v", refused.RemoteAddr(), refused.Close())
	}
	if !errors.As(err, &in) || in.address != "127.0.0.1" {
		t.Errorf("refused for another reason: %v", err)
	}
	if passing(err) {
		t.Error("it is tried again")
	}
	// It is one of the proxy's, whose address an administrator has given.
	r.proxies = map[string]bool{"localhost:" + port: true}
	c, err := r.dial(ctx, "tcp4", "localhost:"+port)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
