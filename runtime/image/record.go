package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// record is images/HEX.json: an image that is whole. It is written last.
type record struct {
	Version int      `json:"version"`
	Name    string   `json:"name"`
	Digest  string   `json:"digest"`
	Refs    []string `json:"refs"`
	// Moved orders the records: of two that have one reference, because the power went
	// between their writes, the one with the greater number is right.
	Moved      int64             `json:"moved,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Layers     []layerInfo       `json:"layers"`
	Created    time.Time         `json:"created,omitzero"`
	Pulled     time.Time         `json:"pulled"`
}

// layerInfo is what is known of an unpacked layer.
type layerInfo struct {
	ID   string `json:"id"` // the name of its directory
	Size int64  `json:"size"`
	// Opaque: it hides all layers below it.
	Opaque bool `json:"opaque,omitempty"`
	// Implied are directories that the layer has no entry for.
	Implied []string `json:"implied,omitempty"`
	// Whiteouts is how many names it takes away from the layers below. It is nil where that
	// is not known: an older version did not count them, and left out none.
	Whiteouts *int `json:"whiteouts,omitempty"`
	// Links are targets of hard links, which it has only if it was made for the layers below.
	Links []string `json:"links,omitempty"`
}

const recordVersion = 1

var layerID = regexp.MustCompile(`^[0-9a-f]{64}(-[0-9a-f]{16})?$`)

// newRecord is the record of an image that was pulled just now.
func newRecord(name, digest, ref string, f *configFile, layers []layerInfo) *record {
	c := f.Config
	return &record{
		Version: recordVersion, Name: name, Digest: digest, Refs: []string{ref},
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir, StopSignal: c.StopSignal, Labels: c.Labels,
		Layers: layers, Created: written(f.Created.Time), Pulled: time.Now().UTC(),
	}
}

// written is a time as a record can have it. When an image was made is whatever its maker
// wrote: in UTC it may be of a year that RFC 3339 has no digits for.
func written(t time.Time) time.Time {
	first, last := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	t = t.UTC()
	switch {
	case t.Before(first):
		return first
	case t.After(last):
		return last
	}
	return t
}

// check says what of a record the store could not use. It is asked before a record is
// written and after it is read, so that none is written that would be lost.
func (r *record) check() error {
	h, err := v1.NewHash(r.Digest)
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("version %d is not %d", r.Version, recordVersion)
	case err != nil || !validHash(h):
		return fmt.Errorf("digest is %q", r.Digest)
	case !validName(r.Name, r.Digest):
		return fmt.Errorf("name is %q, and digest %q", r.Name, r.Digest)
	}
	for _, l := range r.Layers {
		if !layerID.MatchString(l.ID) || l.Size < 0 {
			return fmt.Errorf("layer is %q", l.ID)
		}
		whiteouts := 0
		if l.Whiteouts != nil {
			whiteouts = *l.Whiteouts
		}
		if err := checkNames(l.Implied, l.Links, whiteouts, defaultLimits.Implied); err != nil {
			return fmt.Errorf("layer %.12s: %w", l.ID, err)
		}
	}
	return nil
}

func (r *record) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// decodeRecord is strict about what the store depends on. The name is not of that kind: it
// follows from the rest, and one that is none is made anew.
func decodeRecord(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if h, err := v1.NewHash(r.Digest); err == nil && validHash(h) && !validName(r.Name, r.Digest) {
		base, _, _ := strings.Cut(r.Name, "@")
		r.Name = nameOf(base, r.Digest, len(h.Hex))
	}
	return r, r.check()
}

func (s *Store) recordPath(digest string) string {
	return s.path("images", hexOf(digest)+".json")
}

// load reads all records. What cannot be used is kept aside for a person to look at,
// and its image is gone.
func (s *Store) load() error {
	found, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	var records []*record
	for _, e := range found {
		path := s.path("images", e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r, err := decodeRecord(b)
		if err == nil && s.recordPath(r.Digest) != path {
			err = fmt.Errorf("digest is %q", r.Digest)
		}
		if err == nil {
			err = s.whole(r)
		}
		if err != nil {
			s.log.WithError(err).WithField("record", path).Warn("an image is lost: its record is kept aside as .bad")
			if err := os.Rename(path, strings.TrimSuffix(path, ".json")+".bad"); err != nil {
				return err
			}
			continue
		}
		records = append(records, r)
	}
	slices.SortStableFunc(records, func(a, b *record) int { return cmp.Compare(a.Moved, b.Moved) })
	for _, r := range records {
		if s.named(r.Name) {
			base, _, _ := strings.Cut(r.Name, "@")
			r.Name = nameOf(base, r.Digest, len(hexOf(r.Digest)))
		}
		s.adopt(r)
	}
	return nil
}

// named reports whether an image has a name. mu is held, or nobody else is there.
func (s *Store) named(name string) bool {
	for _, i := range s.images {
		if i.Name == name {
			return true
		}
	}
	return false
}

// whole says which layer of an image is missing.
func (s *Store) whole(r *record) error {
	for _, l := range r.Layers {
		if fi, err := os.Lstat(s.path("layers/sha256", l.ID)); err != nil || !fi.IsDir() {
			return fmt.Errorf("its layer %.12s is missing", l.ID)
		}
	}
	return nil
}

// adopt makes an image known, and takes its references from those that had them. mu is
// held, or nobody else is there.
func (s *Store) adopt(r *record) *Image {
	i := &Image{
		Name: r.Name, Digest: r.Digest, Entrypoint: r.Entrypoint, Cmd: r.Cmd, Env: r.Env, User: r.User,
		WorkingDir: r.WorkingDir, StopSignal: r.StopSignal, Labels: r.Labels, Created: r.Created, Pulled: r.Pulled,
		moved: r.Moved,
	}
	s.moves = max(s.moves, r.Moved)
	for n, l := range r.Layers {
		s.ready[l.ID] = l
		i.ids = append(i.ids, l.ID)
		if l.Opaque {
			i.Layers = nil
		}
		// One that is listed twice counts where it is uppermost: it hides the other, and
		// overlayfs takes no directory twice.
		if slices.ContainsFunc(r.Layers[n+1:], func(above layerInfo) bool { return above.ID == l.ID }) {
			continue
		}
		i.Size += l.Size
		i.Layers = append(i.Layers, s.path("layers/sha256", l.ID))
	}
	s.images[i.Digest] = i
	maps.DeleteFunc(s.refs, func(_, of string) bool { return of == i.Digest })
	for _, text := range r.Refs {
		ref, err := ParseRef(text)
		if err == nil && s.refs[ref.key()] == i.Digest {
			continue // an older version wrote it twice
		}
		i.Refs = append(i.Refs, text)
		if err != nil {
			continue
		}
		if old := s.images[s.refs[ref.key()]]; old != nil {
			less := *old
			less.Refs = slices.DeleteFunc(slices.Clone(old.Refs), func(text string) bool {
				o, err := ParseRef(text)
				return err == nil && o.key() == ref.key()
			})
			s.images[less.Digest] = &less
		}
		s.refs[ref.key()] = i.Digest
	}
	return i
}

// write writes a record; layers must be on the disk before.
func (s *Store) write(r *record) error {
	b, err := r.encode()
	if err != nil {
		return fmt.Errorf("record of the image: %w", err)
	}
	path := s.recordPath(r.Digest)
	tmp := filepath.Join(filepath.Dir(path), ".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = s.settle(f.Sync)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if s.ground.Err() != nil {
		return err // the next Open clears it away
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// recordOf is the record of a known image. mu is held.
func (s *Store) recordOf(i *Image) *record {
	r := &record{
		Version: recordVersion, Name: i.Name, Digest: i.Digest, Refs: slices.Clone(i.Refs), Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: i.Env,
		User: i.User, WorkingDir: i.WorkingDir, StopSignal: i.StopSignal, Labels: i.Labels, Created: i.Created, Pulled: i.Pulled,
		Moved: i.moved,
	}
	for _, id := range i.ids {
		r.Layers = append(r.Layers, s.ready[id])
	}
	return r
}

// refer makes a reference mean an image, which is protected by a lease.
func (s *Store) refer(ref Ref, digest string) (*Image, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	i := s.images[digest]
	known := s.refs[ref.key()] == digest
	r := s.recordOf(i)
	s.mu.Unlock()
	if known {
		return i, nil
	}
	r.Refs = append(r.Refs, ref.text)
	return s.enter(ref, r)
}

// enter writes a record that has come to have a reference, makes its image known, and
// then takes the reference from the record that had it. The lock writing is held.
func (s *Store) enter(ref Ref, r *record) (*Image, error) {
	s.mu.Lock()
	old := s.refs[ref.key()]
	r.Moved = s.moves + 1
	s.mu.Unlock()
	if err := s.write(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	i := s.adopt(r)
	var less *record
	if o := s.images[old]; o != nil && old != i.Digest {
		less = s.recordOf(o)
	}
	s.show()
	s.mu.Unlock()
	if less != nil {
		if err := s.rewrite(less); err != nil {
			// It says too much. The greater number of the other says so to the next daemon.
			s.log.WithField("image", less.Name).WithError(err).Warn("the record of an image that a reference has left is not written anew")
		}
	}
	return i, nil
}

// rewrite writes a record anew, unless its image is being removed.
func (s *Store) rewrite(r *record) error {
	release := s.lease(r.Digest)
	if release == nil {
		return nil
	}
	defer release()
	return s.write(r)
}

// nameFor is a name that no other image has: a few digits of the digest, or as many as
// it takes. The lock writing is held.
func (s *Store) nameFor(ref Ref, digest string) string {
	for n := digitsMin; ; n++ {
		name := nameOf(ref.base(), digest, n)
		if i := s.Get(name); i == nil || n == len(hexOf(digest)) {
			return name
		}
	}
}
