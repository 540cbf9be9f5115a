package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layoutSource is an OCI layout on this host.
type layoutSource struct {
	ref    Ref
	limits *limits
}

func (s *layoutSource) read(name string) ([]byte, error) {
	f, err := openRegular(filepath.Join(s.ref.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errorf(ErrNotFound, "image %s: %s is no OCI layout: it has no %s", s.ref, s.ref.path, name)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.ref, err)
	}
	defer f.Close()
	b, err := readLimited(f, s.limits.Manifest)
	if err != nil {
		return nil, fmt.Errorf("image %s: %s: %w", s.ref, name, err)
	}
	return b, nil
}

func blobName(h v1.Hash) string { return filepath.Join("blobs", h.Algorithm, h.Hex) }

func (s *layoutSource) manifest(_ context.Context, d *v1.Descriptor) ([]byte, types.MediaType, error) {
	if d != nil {
		b, err := s.read(blobName(d.Digest))
		return b, d.MediaType, err
	}
	text, err := s.read("index.json")
	if err != nil {
		return nil, "", err
	}
	if s.ref.tag == "" {
		return text, types.OCIImageIndex, nil
	}
	// What has the tag is the image, or an index of its own.
	var index v1.IndexManifest
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, "", errorf(ErrCorrupt, "image %s: its index.json cannot be read: %v", s.ref, err)
	}
	var tags []string
	var tagged []v1.Descriptor
	for _, d := range index.Manifests {
		tag := d.Annotations["org.opencontainers.image.ref.name"]
		if tag == s.ref.tag {
			tagged = append(tagged, d)
		} else if tag != "" {
			tags = append(tags, fmt.Sprintf("%.64q", tag))
		}
	}
	switch {
	case len(tagged) == 0 && len(tags) == 0:
		return nil, "", errorf(ErrNotFound, "image %s: nothing in the layout has a tag: leave it out", s.ref)
	case len(tagged) == 0:
		return nil, "", errorf(ErrNotFound, "image %s: there is no such tag, only %.512s", s.ref, strings.Join(tags, ", "))
	case len(tagged) > 1:
		one, err := chooseFrom(s.ref, tagged)
		if err != nil {
			return nil, "", err
		}
		tagged[0] = *one
	}
	if !validHash(tagged[0].Digest) {
		return nil, "", errorf(ErrCorrupt, "image %s: its index has a digest that is no sha256", s.ref)
	}
	b, err := s.read(blobName(tagged[0].Digest))
	if err == nil {
		err = verify(b, tagged[0], s.ref, "manifest")
	}
	return b, tagged[0].MediaType, err
}

func (s *layoutSource) config(_ context.Context, d v1.Descriptor) ([]byte, error) {
	b, err := s.read(blobName(d.Digest))
	if err == nil {
		err = verify(b, d, s.ref, "configuration")
	}
	return b, err
}

func (s *layoutSource) layer(ctx context.Context, l layer, got func(int64)) (*os.File, func() error, error) {
	f, err := openRegular(filepath.Join(s.ref.path, blobName(l.Digest)))
	if err != nil {
		return nil, nil, err
	}
	if err := hashed(ctx, f, l.Descriptor, got); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, f.Close, nil
}

func (s *layoutSource) fetch(context.Context, layer, func(int64)) error { return nil }

func (s *layoutSource) done(bool) {}

// archiveSource is a file as docker save writes it. It has no manifest in the sense
// of a registry: one is made of its configuration and layers, as skopeo does.
type archiveSource struct {
	store  *Store
	ref    Ref
	limits *limits
	img    tarball.Descriptor
	sizes  map[string]int64 // of its files
	cfg    []byte
	layers map[string]int // by digest: which file it is
	spool  string         // a file with what is in a compressed archive, or ""
}

// archiveFiles bounds how many files an archive may have: three for a layer, in the
// oldest form.
func (s *archiveSource) files() int { return 8*s.limits.Layers + 64 }

func (s *archiveSource) open() (io.ReadCloser, error) {
	path := s.ref.path
	if s.spool != "" {
		path = s.spool
	}
	f, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.ref, err)
	}
	return f, nil
}

// unpack has a compressed archive decompressed, once: it is read from its beginning for
// each of its files. The slots bound the memory of that, as they bound the unpackers.
func (s *archiveSource) unpack(ctx context.Context) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("image %s: %w", s.ref, err)
	}
	if !packed(head[:n]) {
		return nil
	}
	select {
	case s.store.slots <- struct{}{}:
		defer func() { <-s.store.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	plain, err := decompress(io.MultiReader(bytes.NewReader(head[:n]), &contextReader{ctx, f, nil}))
	if err != nil {
		return errorf(ErrCorrupt, "image %s: the archive cannot be decompressed: %w", s.ref, err)
	}
	s.spool = s.store.aside("tmp", "archive")
	w, err := os.OpenFile(s.spool, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	size, err := io.Copy(w, io.LimitReader(plain, s.limits.Archive+1))
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*fs.PathError)):
		return err // of one of the files
	case err != nil:
		return errorf(ErrCorrupt, "image %s: the archive cannot be decompressed: %w", s.ref, err)
	case size > s.limits.Archive:
		return errorf(ErrTooBig, "image %s: the archive has more than %d bytes when it is decompressed", s.ref, s.limits.Archive)
	}
	return nil
}

// each calls fn with the files of the archive until it returns io.EOF.
func (s *archiveSource) each(fn func(h *tar.Header, r io.Reader) error) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	t := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errorf(ErrCorrupt, "image %s: is no tar as docker save writes it: %v", s.ref, err)
		}
		if n > s.files() {
			return errorf(ErrTooBig, "image %s: has more files than an archive can have", s.ref)
		}
		if err := fn(h, t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// file returns the bytes of a small file, through the links that docker once made.
func (s *archiveSource) file(name string) ([]byte, error) {
	var text []byte
	found := false
	err := s.each(func(h *tar.Header, r io.Reader) (err error) {
		if path.Clean(h.Name) != path.Clean(name) {
			return nil
		}
		found = true
		if text, err = readLimited(r, s.limits.Manifest); err != nil {
			return fmt.Errorf("image %s: %.100q: %w", s.ref, name, err)
		}
		return io.EOF
	})
	if err == nil && !found {
		err = errorf(ErrCorrupt, "image %s: has no %.100q: it must be a file as docker save writes it", s.ref, name)
	}
	return text, err
}

func (s *archiveSource) manifest(ctx context.Context, _ *v1.Descriptor) ([]byte, types.MediaType, error) {
	if err := s.unpack(ctx); err != nil {
		return nil, "", s.store.explain(s.ref, err)
	}
	text, err := s.file("manifest.json")
	if err != nil {
		return nil, "", err
	}
	var all tarball.Manifest
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, "", errorf(ErrCorrupt, "image %s: its manifest.json cannot be read: %v", s.ref, err)
	}
	if len(all) != 1 {
		return nil, "", errorf(ErrNotFound, "image %s: has %d images, and must have one", s.ref, len(all))
	}
	s.img = all[0]
	if s.cfg, err = s.file(s.img.Config); err != nil {
		return nil, "", err
	}
	var cfg v1.ConfigFile
	if err := json.Unmarshal(s.cfg, &cfg); err != nil {
		return nil, "", errorf(ErrCorrupt, "image %s: its configuration cannot be read: %v", s.ref, err)
	}
	if len(cfg.RootFS.DiffIDs) != len(s.img.Layers) {
		return nil, "", errorf(ErrCorrupt, "image %s: its manifest has %d layers, and its configuration %d", s.ref, len(s.img.Layers), len(cfg.RootFS.DiffIDs))
	}
	s.sizes = map[string]int64{}
	if err := s.each(func(h *tar.Header, _ io.Reader) error {
		s.sizes[path.Clean(h.Name)] = h.Size
		return nil
	}); err != nil {
		return nil, "", err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.DockerManifestSchema2, Layers: []v1.Descriptor{}}
	m.Config = v1.Descriptor{MediaType: types.DockerConfigJSON, Size: int64(len(s.cfg)), Digest: sum(s.cfg)}
	s.layers = map[string]int{}
	for i, id := range cfg.RootFS.DiffIDs {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: s.sizes[path.Clean(s.img.Layers[i])], Digest: id})
		s.layers[id.Hex] = i
	}
	made, err := json.Marshal(m)
	return made, m.MediaType, err
}

func (s *archiveSource) config(context.Context, v1.Descriptor) ([]byte, error) { return s.cfg, nil }

// layer gives the layer through a pipe: the unpacker verifies it.
func (s *archiveSource) layer(ctx context.Context, l layer, got func(int64)) (*os.File, func() error, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	copied := make(chan error, 1)
	go func() {
		err := s.copy(ctx, s.img.Layers[s.layers[l.diffID]], w, got)
		copied <- errors.Join(err, w.Close())
	}()
	return r, func() error {
		// What it did not read it did not want; its own error says why.
		err := r.Close()
		if cerr := <-copied; !errors.Is(cerr, syscall.EPIPE) {
			err = errors.Join(err, cerr)
		}
		return err
	}, nil
}

func (s *archiveSource) copy(ctx context.Context, name string, w io.Writer, got func(int64)) error {
	for range 8 { // links
		link := ""
		found := false
		err := s.each(func(h *tar.Header, r io.Reader) error {
			if path.Clean(h.Name) != path.Clean(name) {
				return nil
			}
			found = true
			switch h.Typeflag {
			case tar.TypeSymlink:
				link = path.Join(path.Dir(name), h.Linkname)
			case tar.TypeLink:
				link = h.Linkname
			default:
				if _, err := io.Copy(w, &contextReader{ctx, r, got}); err != nil {
					return err
				}
			}
			return io.EOF
		})
		switch {
		case err != nil:
			return err
		case !found:
			return errorf(ErrCorrupt, "image %s: has no layer %.100q", s.ref, name)
		case link == "":
			return nil
		}
		name = link
	}
	return errorf(ErrCorrupt, "image %s: its layer %.100q is a link to a link to a link", s.ref, name)
}

func (s *archiveSource) fetch(context.Context, layer, func(int64)) error { return nil }

func (s *archiveSource) done(bool) {
	if s.spool == "" {
		return
	}
	if err := os.Remove(s.spool); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.store.log.WithError(err).Warn("a decompressed archive is left until the next start")
	}
}
