package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// registrySource is a repository of a registry. Its layers are fetched into blobs/,
// by way of partial/, where a broken pull leaves what the next one goes on with.
type registrySource struct {
	store  *Store
	ref    Ref
	access *registryConfig

	mu      sync.Mutex
	client  *http.Client
	fetched []string // files in blobs/ that are not needed when the image is known
}

// base is the transport of all registries.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    fetchers,
		IdleConnTimeout:        10 * time.Second,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  stallBound,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
	}
}

// guarded lets no request go out in plain text to where that is not allowed, nor to where
// only this host or its network can reach, if that is not the registry. It does not
// matter who asks: the library, a redirect, or a registry that sends to another for a
// token. And it lets no answer be long that need not be.
type guarded struct {
	inner    http.RoundTripper
	config   *registryConfig
	registry string // HOST or HOST:PORT
	max      int64
}

// plainError says that a request would have gone out in plain text.
type plainError struct{ host string }

func (e *plainError) Error() string {
	return fmt.Sprintf("%s does not speak HTTPS (to allow plain HTTP, list it as one of the insecure-registries in the file of --registry-config)", e.host)
}

// insideError says that a registry has named an address that is none of its business.
type insideError struct{ from, to string }

func (e *insideError) Error() string {
	return fmt.Sprintf("%s sends to %s, which is not allowed", e.from, e.to)
}

func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// inside reports whether a host is an address of this host or of a private network.
func inside(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
}

type blobRequest struct{}

func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.config.plain(r.URL.Host) {
		return nil, &plainError{r.URL.Host}
	}
	if to := r.URL.Hostname(); to != hostname(g.registry) && inside(to) && !slices.Contains(g.config.Insecure, r.URL.Host) {
		return nil, &insideError{from: g.registry, to: to}
	}
	resp, err := g.inner.RoundTrip(r)
	if err == nil && (r.Context().Value(blobRequest{}) == nil || resp.StatusCode/100 != 2) {
		resp.Body = &boundedBody{bounded{resp.Body, g.max, g.max}, resp.Body}
	}
	return resp, err
}

type boundedBody struct {
	bounded
	io.Closer
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errorf(ErrTooBig, "the registry's answer has more than %d bytes", b.max)
	}
	return n, err
}

// connect makes the client, with credentials and a token, if that is needed.
func (s *registrySource) connect(ctx context.Context) (*http.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	repo := s.ref.remote.Context()
	registry := repo.RegistryStr()
	if s.access.plain(registry) {
		var err error
		if repo, err = name.NewRepository(repo.Name(), name.Insecure); err != nil {
			return nil, err
		}
	}
	auth, err := s.access.auth(ctx, registry)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	t, err := transport.NewWithContext(ctx, repo.Registry, auth, &guarded{s.store.transport, s.access, registry, s.store.limits.Manifest}, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	s.client = &http.Client{Transport: t}
	return s.client, nil
}

// explain makes a sentence of what went wrong.
func (s *registrySource) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	registry := s.ref.remote.Context().RegistryStr()
	var plain *plainError
	var status *transport.Error
	switch {
	case startsWithImage(err):
		return err
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("image %s: %w", s.ref, &plainError{registry})
	case errors.As(err, &plain):
		return fmt.Errorf("image %s: %w", s.ref, plain)
	case errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return fmt.Errorf("image %s: %s does not let us have it (credentials go into the file of --registry-config): %w", s.ref, registry, err)
	case errors.As(err, &status) && status.StatusCode == http.StatusNotFound:
		return errorf(ErrNotFound, "image %s: %s does not have it", s.ref, registry)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its URL may have a token in it
	}
	return fmt.Errorf("image %s: %w", s.ref, err)
}

// get asks for something of the repository.
func (s *registrySource) get(ctx context.Context, what, id string, header http.Header) (*http.Response, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	repo := s.ref.remote.Context()
	u := url.URL{Scheme: "https", Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/" + what + "/" + id}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header = header
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// small gets a manifest or a configuration, again if a connection breaks.
func (s *registrySource) small(ctx context.Context, what, id string, header http.Header) (text []byte, kind types.MediaType, err error) {
	err = s.again(ctx, func(ctx context.Context) (bool, error) {
		ctx, alive := stalling(ctx, s.store.stall)
		defer alive.stop()
		resp, err := s.get(ctx, what, id, header.Clone())
		if err != nil {
			return false, alive.blame(err)
		}
		defer resp.Body.Close()
		kind = types.MediaType(resp.Header.Get("Content-Type"))
		text, err = readLimited(resp.Body, s.store.limits.Manifest)
		return false, alive.blame(err)
	})
	return text, kind, err
}

// again calls fn until it succeeds, or fails for good: at each failure that may be the
// network's it is given another try, and all of them if it got something.
func (s *registrySource) again(ctx context.Context, fn func(context.Context) (some bool, err error)) error {
	pause := s.store.pause
	for try := 1; ; try++ {
		some, err := fn(ctx)
		if err == nil {
			return nil
		}
		if some {
			try, pause = 1, s.store.pause
		}
		if ctx.Err() != nil || !passing(err) || try == fetchTries {
			return s.explain(ctx, err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause *= 2
	}
}

// passing reports whether an error may be gone when it is tried again.
func passing(err error) bool {
	var status *transport.Error
	var network *net.OpError
	switch {
	case errors.As(err, new(*plainError)):
		return false
	case errors.As(err, &status):
		return status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests || status.StatusCode == http.StatusRequestTimeout
	case errors.As(err, &network):
		return network.Op != "dial"
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errStalled)
}

var manifestKinds = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ",")

func (s *registrySource) manifest(ctx context.Context, d *v1.Descriptor) ([]byte, types.MediaType, error) {
	id := s.ref.remote.Identifier()
	if d != nil {
		id = d.Digest.String()
	}
	text, kind, err := s.small(ctx, "manifests", id, http.Header{"Accept": {manifestKinds}})
	if pin := s.ref.pinned(); err == nil && d == nil && pin != "" {
		if got := sum(text); got.String() != pin {
			err = errorf(ErrCorrupt, "image %s: the registry gives %s for it", s.ref, short(got))
		}
	}
	return text, kind, err
}

func (s *registrySource) config(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	text, _, err := s.small(ctx, "blobs", d.Digest.String(), http.Header{})
	if err == nil {
		err = verify(text, d, s.ref, "configuration")
	}
	return text, err
}

func (s *registrySource) layer(ctx context.Context, l layer, got func(int64)) (*os.File, func() error, error) {
	path := s.store.path("blobs", l.Digest.Hex)
	if f, err := os.Open(path); err == nil {
		// Left by a pull that was broken off. A disk keeps less than it promises.
		if err := hashed(ctx, f, l.Descriptor, got); err == nil {
			s.note(path)
			return f, f.Close, nil
		} else if ctx.Err() != nil {
			return nil, nil, errors.Join(ctx.Err(), f.Close())
		}
		if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
			return nil, nil, err
		}
	}
	_, _, err := s.store.blobs.do(ctx, ctx, l.Digest.Hex, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.fetch(ctx, l.Descriptor, path, got)
	})
	if err != nil {
		return nil, nil, err
	}
	s.note(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

func (s *registrySource) note(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = append(s.fetched, path)
}

func (s *registrySource) done() {
	for _, path := range s.fetched {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.store.log.WithError(err).Warn("a blob that is not needed is left")
		}
	}
}

// fetch gets a blob into the file path, which it makes only when all is verified and
// on the disk.
func (s *registrySource) fetch(ctx context.Context, d v1.Descriptor, path string, got func(int64)) error {
	part := s.store.path("partial", d.Digest.Hex)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	p := &partial{file: f, hash: sha256.New(), d: d, got: got}
	// What an earlier pull has got counts, if it is not too much.
	if fi, serr := f.Stat(); serr != nil || fi.Size() > d.Size {
		err = f.Truncate(0)
	} else {
		p.have, err = io.Copy(p.hash, &contextReader{ctx, f, got})
	}
	if err == nil {
		err = s.again(ctx, func(ctx context.Context) (bool, error) {
			before := p.have
			err := s.fetchRest(ctx, p)
			return p.have > before, err
		})
	}
	if err == nil {
		if have := (v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(p.hash.Sum(nil))}); have != d.Digest {
			err = errorf(ErrCorrupt, "image %s: a layer is %s, and not %s as it should be", s.ref, short(have), short(d.Digest))
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(part, path)
	}
	if err == nil {
		return syncDir(filepath.Dir(path))
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooBig) || full(err) || errors.Is(err, unix.EIO) {
		err = errors.Join(err, os.Remove(part))
	}
	return err
}

// full reports whether there is no room left.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// partial is a blob that is being fetched.
type partial struct {
	file *os.File
	hash hash.Hash
	d    v1.Descriptor
	have int64
	got  func(int64)
}

func (p *partial) restart() error {
	if p.got != nil {
		p.got(-p.have)
	}
	p.have = 0
	p.hash.Reset()
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

func (p *partial) Write(b []byte) (int, error) {
	if p.have+int64(len(b)) > p.d.Size {
		return 0, errorf(ErrCorrupt, "a layer has more than the %d bytes that it should have", p.d.Size)
	}
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.have += int64(n)
	if p.got != nil {
		p.got(int64(n))
	}
	return n, err
}

// fetchRest gets what is missing, from where it is missing if the registry can.
func (s *registrySource) fetchRest(ctx context.Context, p *partial) error {
	if p.have == p.d.Size {
		return nil
	}
	ctx, alive := stalling(context.WithValue(ctx, blobRequest{}, true), s.store.stall)
	defer alive.stop()
	header := http.Header{}
	if p.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.have))
	}
	resp, err := s.get(ctx, "blobs", p.d.Digest.String(), header)
	if err != nil {
		return alive.blame(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && p.have > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.have)):
	case resp.StatusCode == http.StatusOK:
		if err := p.restart(); err != nil {
			return err
		}
	default:
		// It cannot go on from there. The next try asks for all.
		return errors.Join(p.restart(), io.ErrUnexpectedEOF)
	}
	if _, err := io.Copy(p, &livingReader{resp.Body, alive}); err != nil {
		return alive.blame(err)
	}
	if p.have < p.d.Size {
		return fmt.Errorf("a layer has %d bytes and should have %d: %w", p.have, p.d.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// errStalled: nothing has come for too long.
var errStalled = errors.New("the registry has stopped sending")

// life ends a context when nothing has happened for some time.
type life struct {
	timer  *time.Timer
	bound  time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func stalling(parent context.Context, bound time.Duration) (context.Context, *life) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, &life{time.AfterFunc(bound, func() { cancel(errStalled) }), bound, ctx, cancel}
}

func (l *life) stop() {
	l.timer.Stop()
	l.cancel(nil)
}

// blame gives the reason why the context ended, if it was that.
func (l *life) blame(err error) error {
	if err != nil && errors.Is(context.Cause(l.ctx), errStalled) {
		return errStalled
	}
	return err
}

type livingReader struct {
	r io.Reader
	l *life
}

func (r *livingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.l.timer.Reset(r.l.bound)
	}
	return n, err
}
