package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registrySource is a repository of a registry. Its layers are fetched into blobs/,
// by way of partial/, where a broken pull leaves what the next one goes on with.
type registrySource struct {
	store  *Store
	ref    Ref
	access *registryConfig

	mu        sync.Mutex
	client    *http.Client
	transport http.RoundTripper
	held      []string // files in blobs/ and partial/ that it has a use for
}

// guarded lets no request go out in plain text to where that is not allowed, nor to where
// only this host or its network can reach, if that is not the registry. It does not
// matter who asks: the library, a redirect, or a registry that sends to another for a
// token. And it lets no answer be long that need not be.
type guarded struct {
	inner http.RoundTripper
	reach *reach
	max   int64
}

// plainError says that a request would have gone out in plain text.
type plainError struct{ host string }

func (e *plainError) Error() string {
	return fmt.Sprintf("%s does not speak HTTPS (to allow plain HTTP, list it as one of the insecure-registries in the file of --registry-config)", e.host)
}

type blobRequest struct{}

func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.reach.config.plain(r.URL.Host) {
		return nil, &plainError{r.URL.Host}
	}
	r, err := g.reach.request(r)
	if err != nil {
		return nil, err
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
	reach := &reach{registry: registry, config: s.access}
	if s.transport == nil {
		s.transport = s.store.transport(reach)
	}
	t, err := transport.NewWithContext(ctx, repo.Registry, auth, &guarded{s.transport, reach, s.store.limits.Manifest}, []string{repo.Scope(transport.PullScope)})
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
	var inside *insideError
	var status *transport.Error
	switch {
	case errors.As(err, &inside):
		return fmt.Errorf("image %s: %w", s.ref, inside)
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
	case errors.As(err, new(*plainError)), errors.As(err, new(*insideError)):
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
