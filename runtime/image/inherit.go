package image

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer may hold a file without an entry for the directory that it is in. That
// directory is to stay as it is in the layers below, but overlayfs takes the attributes
// of the uppermost: they must be there too. So such a layer, if the usual attributes
// would be wrong, is unpacked once more, for this base.

// inherit replaces those of the layers that have to be as the ones below say. unpin is to
// be called when the image is known, whatever err is.
func (s *Store) inherit(ctx context.Context, src source, layers []layer, infos []layerInfo, p *progress) (unpin func(), err error) {
	var unpins []func()
	unpin = func() {
		for _, u := range unpins {
			u()
		}
	}
	for n := 1; n < len(infos); n++ {
		l := layers[n]
		for _, dir := range infos[n].Implied {
			d, err := s.below(infos[:n], dir)
			if err != nil {
				return unpin, err
			}
			if d != nil {
				l.dirs = append(l.dirs, *d)
			}
		}
		if len(l.dirs) == 0 {
			continue
		}
		unpins = append(unpins, s.pin([]string{l.id()}))
		if infos[n], err = s.getLayer(ctx, src, l, p); err != nil {
			return unpin, err
		}
	}
	return unpin, nil
}

// below returns what a directory is like in layers, or nil if it is as usual.
func (s *Store) below(layers []layerInfo, dir string) (*dirAttr, error) {
	for n := len(layers) - 1; n >= 0; n-- {
		path := s.path("layers/sha256", layers[n].ID)
		there, hidden := true, layers[n].Opaque
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil, fmt.Errorf("layer %.12s: %w", layers[n].ID, err)
		}
		if dir != "." {
			for part := range strings.SplitSeq(dir, "/") {
				path = filepath.Join(path, part)
				if err := unix.Lstat(path, &st); err != nil {
					there = false
					break
				}
				if st.Mode&unix.S_IFMT != unix.S_IFDIR {
					return nil, nil // it hides what is below it
				}
				hidden = hidden || isOpaque(path)
			}
		}
		if there {
			d := &dirAttr{Path: dir, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid)}
			if d.Mode == 0o755 && d.UID == 0 && d.GID == 0 {
				return nil, nil
			}
			return d, nil
		}
		if hidden {
			return nil, nil
		}
	}
	return nil, nil
}

func isOpaque(path string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}
