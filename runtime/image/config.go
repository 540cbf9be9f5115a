package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
)

// registryConfig is the file of --registry-config: what says who we are to a registry in
// a docker config.json, and the insecure-registries of a docker daemon.json. A file of
// docker login has more keys, which mean nothing here.
type registryConfig struct {
	credentialKeys
	Insecure []string `json:"insecure-registries"`
}

const configMax = 1 << 20

// CheckRegistryConfig says what is wrong with a registry configuration. "" is none.
func CheckRegistryConfig(path string) error {
	_, err := loadRegistryConfig(path)
	return err
}

func loadRegistryConfig(path string) (*registryConfig, error) {
	c := &registryConfig{}
	if path == "" {
		return c, nil
	}
	f, err := openRegular(path)
	if err != nil {
		return nil, errorf(ErrConfig, "registry configuration: %w", err)
	}
	defer f.Close()
	b, err := readLimited(f, configMax)
	if err == nil {
		err = c.decode(b)
	}
	if err != nil {
		// The text may be in it, and that is secret: only where and what is told.
		return nil, errorf(ErrConfig, "registry configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *registryConfig) decode(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(c); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return fmt.Errorf("no JSON at line %d", 1+bytes.Count(b[:min(int(syntax.Offset), len(b))], []byte("\n")))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("no JSON: it ends too early (write {} for nothing)")
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	if err := c.check(); err != nil {
		return err
	}
	for i, key := range c.Insecure {
		host, err := registryHost(key)
		if err != nil || strings.Contains(key, "/") {
			return fmt.Errorf("insecure-registries: %q: must be HOST or HOST:PORT", key)
		}
		c.Insecure[i] = host
	}
	return nil
}

// registryHost gives a key of auths or credHelpers as the host that references have.
func registryHost(key string) (string, error) {
	host := key
	for _, scheme := range []string{"https://", "http://"} {
		host = strings.TrimPrefix(host, scheme)
	}
	host, _, _ = strings.Cut(host, "/")
	if host == "" {
		return "", errors.New("must be a registry's HOST or HOST:PORT")
	}
	r, err := name.NewRegistry(host)
	if err != nil {
		return "", errors.New("must be a registry's HOST or HOST:PORT")
	}
	return r.RegistryStr(), nil
}

// plain reports whether a host (with its port, if it has one) may be talked to
// without TLS.
func (c *registryConfig) plain(host string) bool {
	for _, h := range c.Insecure {
		if h == host {
			return true
		}
	}
	h, _, err := net.SplitHostPort(host)
	if err != nil {
		h = strings.Trim(host, "[]")
	}
	if h == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(h)
	return err == nil && ip.Unmap().IsLoopback()
}

// readLimited reads all of r, and fails if that is more than max.
func readLimited(r io.Reader, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(b)) > max {
		err = errorf(ErrTooBig, "it has more than %d bytes", max)
	}
	return b, err
}

// openRegular opens a file for reading and refuses what is none: opening or reading a
// fifo or a device may never end.
func openRegular(path string) (*os.File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// It may have been exchanged meanwhile.
	if fi, err = f.Stat(); err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
