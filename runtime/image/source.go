package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// source is where an image comes from.
type source interface {
	// manifest returns the manifest or index that a descriptor, or "" the reference,
	// means, verified as far as a digest is known.
	manifest(ctx context.Context, d *v1.Descriptor) (text []byte, kind types.MediaType, err error)
	// config returns the verified bytes of a configuration.
	config(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// fetch brings a layer to this host, if it is not. It may take as long as a network
	// does, so nobody waits for another's.
	fetch(ctx context.Context, l layer, got func(n int64)) error
	// layer returns a verified layer to read from its beginning, and what has to
	// be called when that is done: its error says that what was read is not whole.
	layer(ctx context.Context, l layer, got func(n int64)) (f *os.File, end func() error, err error)
	// done is called when nothing is needed any more of what was fetched, or only, with
	// keep, for a pull that goes on with it.
	done(keep bool)
}

// layer is one of an image to be pulled.
type layer struct {
	v1.Descriptor
	diffID string // in hex
	base
}

// base is what a layer has to have because of the layers below it.
type base struct {
	dirs  []dirAttr // of directories that it has no entry for, and that are not as usual
	drop  []string  // whiteouts of what is not there
	links []link    // hard links to what it has not itself
}

// link is the target of a hard link, and the layer that has it.
type link struct{ target, layer string }

// none: the layer is the same on any base.
func (b *base) none() bool { return len(b.dirs)+len(b.drop)+len(b.links) == 0 }

// id names the directory of the layer. Nearly always the layer alone decides it.
func (l *layer) id() string {
	if l.none() {
		return l.diffID
	}
	h := sha256.New()
	for _, d := range l.dirs {
		fmt.Fprintf(h, "%q %o %d:%d\n", d.Path, d.Mode, d.UID, d.GID)
	}
	for _, name := range l.drop {
		fmt.Fprintf(h, "without %q\n", name)
	}
	for _, k := range l.links {
		fmt.Fprintf(h, "link %q %s\n", k.target, k.layer)
	}
	return l.diffID + "-" + hex.EncodeToString(h.Sum(nil)[:8])
}

// resolved is an image that is not here yet.
type resolved struct {
	digest v1.Hash
	index  v1.Hash // through which it was found, or none
	config *configFile
	layers []layer
}

func sum(b []byte) v1.Hash {
	h := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h[:])}
}

// verify says that bytes are not what their descriptor promises.
func verify(b []byte, d v1.Descriptor, ref Ref, what string) error {
	if got := sum(b); got != d.Digest {
		return errorf(ErrCorrupt, "image %s: its %s is %s, and not %s as it should be", ref, what, short(got), short(d.Digest))
	}
	return nil
}

// short is a digest for people.
func short(h v1.Hash) string { return fmt.Sprintf("%s:%.12s", h.Algorithm, h.Hex) }

func validHash(h v1.Hash) bool {
	b, err := hex.DecodeString(h.Hex)
	return h.Algorithm == "sha256" && err == nil && len(b) == sha256.Size && strings.ToLower(h.Hex) == h.Hex
}

// indexDepth is how many indexes may lead to a manifest.
const indexDepth = 3

// resolve finds the image of a reference for this host.
func resolve(ctx context.Context, ref Ref, src source, l *limits) (*resolved, error) {
	r := &resolved{}
	var next *v1.Descriptor
	for depth := 0; ; depth++ {
		text, kind, err := src.manifest(ctx, next)
		if err != nil {
			return nil, err
		}
		digest := sum(text)
		if next != nil {
			if err := verify(text, *next, ref, "manifest"); err != nil {
				return nil, err
			}
		}
		if !kind.IsIndex() && !kind.IsImage() {
			kind = guess(text)
		}
		switch {
		case kind.IsIndex() && depth < indexDepth:
			if depth == 0 {
				r.index = digest
			}
			if next, err = choose(ref, text); err != nil {
				return nil, err
			}
			continue
		case !kind.IsImage():
			return nil, errorf(ErrCorrupt, "image %s: has no manifest of a kind that can be used (%.100q)", ref, kind)
		}
		r.digest = digest
		return r, r.read(ctx, ref, text, src, l)
	}
}

// guess tells the kind of a manifest that has none beside it.
func guess(text []byte) types.MediaType {
	var m struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	switch err := json.Unmarshal(text, &m); {
	case err != nil:
		return ""
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return types.OCIImageIndex
	case m.Layers != nil:
		return types.OCIManifestSchema1
	}
	return ""
}

// choose takes the manifest for this host out of an index.
func choose(ref Ref, text []byte) (*v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(text))
	if err != nil {
		return nil, errorf(ErrCorrupt, "image %s: its index cannot be read: %v", ref, err)
	}
	return chooseFrom(ref, index.Manifests)
}

func chooseFrom(ref Ref, manifests []v1.Descriptor) (*v1.Descriptor, error) {
	var there []string
	var best, other *v1.Descriptor
	others, bestLevel := 0, -1
	for i := range manifests {
		d := &manifests[i]
		switch {
		case !validHash(d.Digest):
			return nil, errorf(ErrCorrupt, "image %s: its index has a digest that is no sha256", ref)
		case d.Platform == nil:
			other = d
			others++
		case d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH && level(d.Platform.Variant) == 0:
			return d, nil // for every such host
		case d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH && level(d.Platform.Variant) > 0 && level(d.Platform.Variant) <= processorLevel:
			if l := level(d.Platform.Variant); l > bestLevel {
				best, bestLevel = d, l
			}
		case d.Platform.OS != "unknown": // what is no image but about one
			p := d.Platform.OS + "/" + d.Platform.Architecture
			if d.Platform.Variant != "" {
				p += "/" + d.Platform.Variant
			}
			there = append(there, fmt.Sprintf("%.64q", p))
		}
	}
	if best != nil {
		return best, nil
	}
	if others == 1 {
		return other, nil // its configuration says what it is for
	}
	if others > 1 {
		return nil, errorf(ErrNotFound, "image %s: there is more than one: give a tag", ref)
	}
	if len(there) == 0 {
		return nil, errorf(ErrNotFound, "image %s: its index is empty", ref)
	}
	slices.Sort(there)
	list := strings.ReplaceAll(strings.Join(slices.Compact(there), ", "), `"`, "")
	return nil, errorf(ErrPlatform, "image %s: there is none for %s, only for %.512s", ref, platformName(), list)
}

// dockerLayerZstd is how buildx calls a layer that is compressed by zstd in an image of
// Docker's own kind. The library does not know it.
const dockerLayerZstd types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// read takes what is needed out of a manifest and its configuration.
func (r *resolved) read(ctx context.Context, ref Ref, text []byte, src source, l *limits) error {
	m, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return errorf(ErrCorrupt, "image %s: its manifest cannot be read: %v", ref, err)
	}
	if !m.Config.MediaType.IsConfig() && m.Config.MediaType != "" {
		return errorf(ErrCorrupt, "image %s: is no image but %.100q", ref, m.Config.MediaType)
	}
	if len(m.Layers) > l.Layers {
		return errorf(ErrTooBig, "image %s: has %d layers, and at most %d are possible", ref, len(m.Layers), l.Layers)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if !validHash(d.Digest) || d.Size < 0 {
			return errorf(ErrCorrupt, "image %s: its manifest has a digest that is no sha256, or a size that is none", ref)
		}
	}
	if m.Config.Size > l.Manifest {
		return errorf(ErrTooBig, "image %s: its configuration has more than %d bytes", ref, l.Manifest)
	}
	cfg, err := src.config(ctx, m.Config)
	if err != nil {
		return err
	}
	if r.config, err = parseConfigFile(ref, cfg, l); err != nil {
		return err
	}
	c := r.config
	if c.OS != "linux" && c.OS != "" || c.Architecture != runtime.GOARCH && c.Architecture != "" {
		return errorf(ErrPlatform, "image %s: there is none for %s, only for %.100s", ref, platformName(), c.OS+"/"+c.Architecture)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return errorf(ErrCorrupt, "image %s: its manifest has %d layers, and its configuration %d", ref, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	for i, d := range m.Layers {
		id := c.RootFS.DiffIDs[i]
		if !validHash(id) {
			return errorf(ErrCorrupt, "image %s: its configuration has a digest that is no sha256", ref)
		}
		if !d.MediaType.IsLayer() && d.MediaType != dockerLayerZstd {
			return fmt.Errorf("image %s: a layer is of the kind %.100q, which is not supported", ref, d.MediaType)
		}
		if d.Size > l.Packed {
			return errorf(ErrTooBig, "image %s: a layer has %d bytes as it is fetched, and at most %d are possible", ref, d.Size, l.Packed)
		}
		r.layers = append(r.layers, layer{Descriptor: d, diffID: id.Hex})
	}
	return nil
}

// hashed verifies an open file and leaves it at its beginning.
func hashed(ctx context.Context, f *os.File, d v1.Descriptor, got func(int64)) error {
	h := sha256.New()
	n, err := io.Copy(h, &contextReader{ctx, f, got})
	if err != nil {
		return err
	}
	if have := (v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}); have != d.Digest || n != d.Size {
		return errorf(ErrCorrupt, "a layer is %s with %d bytes, and not %s with %d as it should be", short(have), n, short(d.Digest), d.Size)
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
	got func(int64)
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if n > 0 && c.got != nil {
		c.got(int64(n))
	}
	return n, err
}
