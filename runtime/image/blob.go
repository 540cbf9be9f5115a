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
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A blob of a registry is fetched into partial/, and comes to blobs/ when it is whole and
// verified. All who want it of one registry fetch it once. Of another registry it is
// another fetch, into another file: so none that is slow, or sends something else, holds up
// or spoils what comes from elsewhere.

// blobPath is where a blob is when it is whole.
func (s *Store) blobPath(hex string) string { return s.path("blobs", hex) }

// partPath is where what a registry has sent of a blob is.
func (s *Store) partPath(hex, registry string) string {
	of := sha256.Sum256([]byte(registry))
	return s.path("partial", hex+"-"+fmt.Sprintf("%x", of[:8]))
}

func (s *registrySource) registry() string { return s.ref.remote.Context().RegistryStr() }

func (s *registrySource) fetch(ctx context.Context, l layer, got func(int64)) error {
	hex := l.Digest.Hex
	s.hold(hex)
	for {
		_, shared, err := s.store.blobs.do(ctx, s.store.ground, s.registry()+" "+hex, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.bring(ctx, l.Descriptor, got)
		})
		switch {
		case !shared:
			return err
		case err == nil:
			got(l.Size)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		// Another image's repository has failed, and this one's may not.
	}
}

func (s *registrySource) layer(_ context.Context, l layer, _ func(int64)) (*os.File, func() error, error) {
	f, err := os.Open(s.store.blobPath(l.Digest.Hex))
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// bring gets a blob, unless a pull that was broken off has left it. It is there only when
// all is verified and on the disk.
func (s *registrySource) bring(ctx context.Context, d v1.Descriptor, got func(int64)) error {
	if have, err := s.have(ctx, d, got); have || err != nil {
		return err
	}
	path := s.store.blobPath(d.Digest.Hex)
	part := s.store.partPath(d.Digest.Hex, s.registry())
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	p := &partial{file: f, hash: sha256.New(), d: d, got: got}
	err = s.complete(ctx, p)
	if err == nil {
		err = s.store.settle(f.Sync)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.store.arrive(part, path)
	}
	if err == nil {
		return syncDir(filepath.Dir(path))
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooBig) || full(err) || errors.Is(err, unix.EIO) {
		err = errors.Join(err, os.Remove(part))
	}
	return err
}

// have reports whether a blob is here. A disk keeps less than it promises: one that is not
// what it should be is removed.
func (s *registrySource) have(ctx context.Context, d v1.Descriptor, got func(int64)) (bool, error) {
	path := s.store.blobPath(d.Digest.Hex)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = hashed(ctx, f, d, got)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		return true, nil
	}
	return false, s.store.discredit(f, path)
}

// complete fetches what is missing of a blob, and verifies it. What an earlier pull has got
// counts; if it was something else, the blob is fetched anew.
func (s *registrySource) complete(ctx context.Context, p *partial) error {
	fi, err := p.file.Stat()
	if err == nil && fi.Size() > p.d.Size {
		err = p.file.Truncate(0)
	} else if err == nil {
		p.have, err = io.Copy(p.hash, &contextReader{ctx, p.file, p.got})
		p.joined = p.have > 0
	}
	for err == nil {
		err = s.again(ctx, func(ctx context.Context) (bool, error) {
			before := p.have
			err := s.fetchRest(ctx, p)
			return p.have-before >= s.store.chunk, err
		})
		if err != nil {
			break
		}
		have := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(p.hash.Sum(nil))}
		switch {
		case have == p.d.Digest:
			return nil
		case p.joined && !p.anew:
			p.anew = true
			err = p.restart()
		default:
			err = errorf(ErrCorrupt, "image %s: a layer is %s, and not %s as it should be", s.ref, short(have), short(p.d.Digest))
		}
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
	// joined: it was put together of the answers to more than one request.
	joined bool
	anew   bool // it was, and was something else
}

func (p *partial) restart() error {
	if p.got != nil {
		p.got(-p.have)
	}
	p.have, p.joined = 0, false
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
	alive.chunk = s.store.chunk
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
		p.joined = true
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

// errStalled: too little has come for too long.
var errStalled = errors.New("the registry has stopped sending, or sends less than 1 KiB a second")

// life ends a context when, for some time, less has come than a chunk.
type life struct {
	timer  *time.Timer
	bound  time.Duration
	chunk  int64
	some   int64 // since the timer was set
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func stalling(parent context.Context, bound time.Duration) (context.Context, *life) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, &life{timer: time.AfterFunc(bound, func() { cancel(errStalled) }), bound: bound, ctx: ctx, cancel: cancel}
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
	if r.l.some += int64(n); r.l.some >= r.l.chunk {
		r.l.some = 0
		r.l.timer.Reset(r.l.bound)
	}
	return n, err
}
