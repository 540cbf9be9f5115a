package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// pull gets the image of a reference that is not known.
func (s *Store) pull(ctx context.Context, ref Ref, p *progress) (*Image, error) {
	began := time.Now()
	p.change(func(p *Progress) { p.Step = "resolving" })
	if ref.scheme == schemeLayout {
		ref = ref.located()
	}
	src, err := s.source(ref)
	if err != nil {
		return nil, err
	}
	keep := true // what was fetched, for the next pull
	defer func() { src.done(keep) }()
	r, err := resolve(ctx, ref, src, &s.limits)
	if err != nil {
		return nil, err
	}
	if release := s.lease(r.digest.String()); release != nil {
		defer release()
		before := s.ByDigest(r.digest.String())
		img, err := s.refer(ref, r.digest.String())
		if err != nil {
			return nil, s.explain(ref, err)
		}
		if img != before {
			s.opt.Changed()
		}
		return img, nil
	}
	ids := make([]string, 0, len(r.layers))
	for _, l := range r.layers {
		ids = append(ids, l.diffID)
	}
	defer s.pin(ids)()
	var img *Image
	infos, err := s.getLayers(ctx, src, r, p)
	if err == nil {
		var unpin func()
		unpin, err = s.inherit(ctx, src, r.layers, infos, p)
		defer unpin()
	}
	if err == nil {
		img, err = s.keep(ref, r, infos)
	}
	keep = err != nil && !full(err) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooBig)
	if err != nil {
		return nil, s.explain(ref, err)
	}
	s.log.WithField("image", img.Name).WithField("ref", ref.text).WithField("duration_ms", time.Since(began).Milliseconds()).Info("image pulled")
	s.opt.Changed()
	return img, nil
}

func (s *Store) source(ref Ref) (source, error) {
	switch ref.scheme {
	case schemeLayout:
		return &layoutSource{ref: ref, limits: &s.limits}, nil
	case schemeArchive:
		return &archiveSource{store: s, ref: ref, limits: &s.limits}, nil
	case schemeRegistry:
		access, err := loadRegistryConfig(s.opt.RegistryConfig)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		return &registrySource{store: s, ref: ref, access: access}, nil
	}
	return nil, errorf(ErrRef, "no image reference was given")
}

// pin is a layer that pulls need.
type pin struct {
	pulls   int
	arrived chan struct{} // closed when the layer is ready
}

// pin keeps layers from being discarded until unpin is called, which does that if
// nobody needs them then.
func (s *Store) pin(ids []string) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		p := s.pins[id]
		if p == nil {
			p = &pin{arrived: make(chan struct{})}
			s.pins[id] = p
			if _, ready := s.ready[id]; ready {
				close(p.arrived)
			}
		}
		p.pulls++
	}
	return func() {
		s.mu.Lock()
		for _, id := range ids {
			if s.pins[id].pulls--; s.pins[id].pulls == 0 {
				delete(s.pins, id)
			}
		}
		var gone []string
		if !s.closed { // else the next Open does it
			gone = s.discard(ids)
		}
		s.mu.Unlock()
		s.sweep(gone)
	}
}

// getLayers gets all layers of an image that are not here.
func (s *Store) getLayers(ctx context.Context, src source, r *resolved, p *progress) ([]layerInfo, error) {
	p.change(func(p *Progress) {
		p.Step, p.Layers = "pulling", len(r.layers)
		for _, l := range r.layers {
			p.Total += l.Size
		}
	})
	infos := make([]layerInfo, len(r.layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for n, l := range r.layers {
		g.Go(func() (err error) {
			infos[n], err = s.getLayer(ctx, src, l, p)
			if err == nil {
				p.change(func(p *Progress) { p.Done++ })
			}
			return err
		})
	}
	return infos, g.Wait()
}

// explain names the image in an error that does not.
func (s *Store) explain(ref Ref, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case full(err):
		return fmt.Errorf("image %s: there is no room for it in %s: %w", ref, s.dir, err)
	case startsWithImage(err):
		return err
	}
	return fmt.Errorf("image %s: %w", ref, err)
}

func startsWithImage(err error) bool {
	return len(err.Error()) > 6 && err.Error()[:6] == "image "
}

// errArrived: another pull was faster.
var errArrived = errors.New("the layer has come from elsewhere")

// getLayer gets a layer, which is pinned. Pulls that need one layer fetch it each by itself,
// unless they do so from one registry, and the first that has it unpacks it for all: so one
// that is slow holds up no other.
func (s *Store) getLayer(ctx context.Context, src source, l layer, p *progress) (layerInfo, error) {
	id := l.id()
	var bytes int64 // told of this layer
	got := func(n int64) {
		p.change(func(p *Progress) {
			p.Bytes += n
			bytes += n
		})
	}
	for {
		s.mu.Lock()
		info, ready := s.ready[id]
		arrived := s.pins[id].arrived
		s.mu.Unlock()
		if ready {
			p.change(func(p *Progress) { p.Bytes += l.Size - bytes })
			return info, nil
		}
		if err := s.fetchLayer(ctx, src, l, arrived, got); errors.Is(err, errArrived) {
			continue
		} else if err != nil {
			return info, err
		}
		info, shared, err := s.layers.do(ctx, s.ground, id, func(ctx context.Context) (layerInfo, error) {
			s.mu.Lock()
			info, ready := s.ready[id]
			s.mu.Unlock()
			if ready {
				return info, nil // by a flight that has ended since
			}
			return s.unpackLayer(ctx, src, l, got)
		})
		switch {
		case shared && err == nil:
			continue // it is among those that are ready
		case shared && ctx.Err() == nil:
			continue // another image's layer was not what it should be, and this one's may be
		}
		return info, err
	}
}

// fetchLayer brings a layer here, or gives up when it has arrived from elsewhere.
func (s *Store) fetchLayer(ctx context.Context, src source, l layer, arrived <-chan struct{}, got func(int64)) error {
	mine, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-arrived:
			cancel(errArrived)
		case <-mine.Done():
		}
	}()
	err := src.fetch(mine, l, got)
	if err != nil && errors.Is(context.Cause(mine), errArrived) {
		return errArrived
	}
	return err
}

// unpackLayer unpacks a layer that was fetched.
func (s *Store) unpackLayer(ctx context.Context, src source, l layer, got func(int64)) (info layerInfo, err error) {
	f, end, err := src.layer(ctx, l, got)
	if err != nil {
		return info, err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, end())
		}
	}()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return info, ctx.Err()
	}
	dir := s.aside("tmp", l.diffID[:12])
	if err := os.Mkdir(dir, 0o700); err != nil {
		return info, err
	}
	defer s.clear(dir)
	o := order{Dir: dir, DiffID: l.diffID, Limits: s.limits, Dirs: l.dirs, Drop: l.drop}
	if err := s.stage(ctx, dir, l.links, &o); err != nil {
		return info, err
	}
	u, err := unpack(ctx, f, o)
	closed = true
	if eerr := end(); err == nil || eerr != nil && !errors.Is(err, context.Canceled) && !full(err) && errors.Is(err, ErrCorrupt) {
		// What was cut short while it was read is no news of the layer.
		if eerr != nil {
			err = eerr
		}
	}
	if err != nil {
		return info, err
	}
	slices.Sort(u.Implied)
	info = layerInfo{ID: l.id(), Size: u.Size, Opaque: u.Opaque, Implied: u.Implied, Whiteouts: &u.Whiteouts, Links: u.Links}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return info, ErrClosed
	}
	if err := os.Rename(dir+layerRoot, s.path("layers/sha256", info.ID)); err != nil {
		return info, err
	}
	s.ready[info.ID] = info
	if p := s.pins[info.ID]; p != nil {
		close(p.arrived)
	}
	return info, nil
}

// clear has a directory deleted in which a layer was unpacked. What is in it may be large:
// the next layer does not wait for that.
func (s *Store) clear(dir string) {
	if unix.Rmdir(dir) == nil || s.ground.Err() != nil {
		return // nothing is left, or it is left to the next Open
	}
	to := s.aside("trash", "half")
	if err := os.Rename(dir, to); err != nil {
		s.log.WithError(err).Warn("a layer that was not finished is left until the next start")
		return
	}
	s.sweep([]string{to})
}

// keep makes an image known, once it is on the disk.
func (s *Store) keep(ref Ref, r *resolved, infos []layerInfo) (*Image, error) {
	digest := r.digest.String()
	if release := s.lease(digest); release != nil {
		defer release()
		return s.refer(ref, digest)
	}
	if err := s.settle(func() error { return syncFS(s.dir) }); err != nil {
		return nil, err
	}
	i, err := s.keepNew(ref, r, infos)
	if i == nil && err == nil {
		return s.keep(ref, r, infos) // another pull has come first
	}
	return i, err
}

func (s *Store) keepNew(ref Ref, r *resolved, infos []layerInfo) (*Image, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	digest := r.digest.String()
	if s.ByDigest(digest) != nil {
		return nil, nil
	}
	return s.enter(ref, newRecord(s.nameFor(ref, digest), digest, ref.text, r.config, infos))
}
