package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// An image is used by the boxes that run on it, and by those that have changes on it:
// these would fit no other. A box that only names it, or ran on it and changed nothing,
// can have it fetched again, or another in its place.

// imageUse remembers on which images a box has changes. Only its runs make any, so what
// was seen after one holds until the next.
type imageUse struct {
	mu   sync.Mutex
	seen map[string]seenChanges // by imageKey
}

type seenChanges struct {
	runs    int // how many runs there had been
	changed bool
}

// imageKey names, in changesDir, the directory of a box's changes to an image.
func imageKey(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return "image-" + hex[:min(16, len(hex))]
}

// useOf says how the box uses an image, "" for not at all.
func (b *Box) useOf(digest string) string {
	b.mu.Lock()
	s, last, removed := b.snap.Load(), b.record.Image, b.removed
	b.mu.Unlock()
	switch {
	case removed:
		return ""
	case last == digest && (s.Status.Active() || s.Status == status.Restarting):
		return "runs on it"
	case b.hasChanges(digest, s):
		return "has changes on it"
	}
	return ""
}

// hasChanges reports whether the box, as it is in s, has changes on an image. What cannot
// be looked at counts as some. What is seen in the middle of a run is not remembered: it
// may have its changes still to make.
func (b *Box) hasChanges(digest string, s *Snapshot) bool {
	key := imageKey(digest)
	b.images.mu.Lock()
	defer b.images.mu.Unlock()
	settled := !s.Status.Active()
	if seen, ok := b.images.seen[key]; ok && settled && seen.runs == s.Runs {
		return seen.changed
	}
	changed, err := b.changedIn(filepath.Join(b.dir, changesDir, key, "upper"))
	if err != nil {
		b.log("image").WithError(err).Warn("it is not known whether the box has changes on an image")
		return true
	}
	if settled {
		if b.images.seen == nil {
			b.images.seen = map[string]seenChanges{}
		}
		b.images.seen[key] = seenChanges{s.Runs, changed}
	}
	return changed
}

// changedIn reports whether there is anything in the upper directory of an overlay but
// what the OCI runtime has made there for the mounts of the box's last container.
func (b *Box) changedIn(upper string) (bool, error) {
	p, err := b.readBackProcess()
	if err != nil {
		return false, err
	}
	targets := map[string]bool{} // false: a directory above one
	// The usual ones too: the last container may have been made from another root.
	for _, target := range append(p.Mounts, oci.UsualMounts()...) {
		targets[target] = true
		for dir := filepath.Dir(target); dir != "/" && !targets[dir]; dir = filepath.Dir(dir) {
			targets[dir] = false
		}
	}
	return changedBelow(upper, "/", targets)
}

// changedBelow looks at one directory of an upper directory. It goes down only to where a
// mount is, however deep the box has made a tree.
func changedBelow(upper, at string, targets map[string]bool) (bool, error) {
	dir, err := os.Open(filepath.Join(upper, at))
	if errors.Is(err, os.ErrNotExist) && at == "/" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	// More names than there are mounts are a change; a box may have made any number.
	entries, err := dir.ReadDir(len(targets) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for _, e := range entries {
		name := filepath.Join(at, e.Name())
		mount, known := targets[name]
		switch {
		case known && e.IsDir() && !opaque(filepath.Join(upper, name)):
			changed, err := changedBelow(upper, name, targets)
			if changed || err != nil {
				return changed, err
			}
		case mount && e.Type().IsRegular():
			if fi, err := e.Info(); err != nil || fi.Size() > 0 {
				return err == nil, err
			}
		default:
			return true, nil
		}
	}
	return false, nil
}

// imageUsers returns the names of the boxes that use an image.
func (rt *Runtime) imageUsers(digest string) []string {
	users := []string{}
	for _, b := range rt.Boxes() {
		if b.useOf(digest) != "" {
			users = append(users, b.Name())
		}
	}
	return users
}

// imageInUse says which box uses an image, and how.
func (rt *Runtime) imageInUse(digest string) (by string, ok bool) {
	for _, b := range rt.Boxes() {
		if how := b.useOf(digest); how != "" {
			return fmt.Sprintf("box %q, which %s", b.Name(), how), true
		}
	}
	return "", false
}

// opaque reports whether a directory of an upper directory hides those below it.
func opaque(dir string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}
