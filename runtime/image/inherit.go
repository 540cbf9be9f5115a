package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer is unpacked by itself, and is the same below and above any other, but for three
// things, of which overlayfs makes something else than an unpacker that sees the layers below:
//
//   - A file without an entry for the directory that it is in. That directory is to stay as
//     it is below, but overlayfs takes the attributes of the uppermost.
//   - A whiteout of what is not there. overlayfs shows it, where it has nothing to merge.
//   - A hard link to a file of a lower layer.
//
// A layer that has one of these is unpacked once more, for this base.

// inherit replaces those of the layers that have to be other on the ones below. unpin is to
// be called when the image is known, whatever err is.
func (s *Store) inherit(ctx context.Context, src source, layers []layer, infos []layerInfo, p *progress) (unpin func(), err error) {
	var unpins []func()
	unpin = func() {
		for _, u := range unpins {
			u()
		}
	}
	whiteouts := 0
	for n := range infos {
		l := layers[n]
		if infos[n].Whiteouts == nil {
			names, err := s.whiteouts(ctx, infos[n])
			if err != nil {
				return unpin, err
			}
			infos[n].Whiteouts = new(len(names))
		}
		if whiteouts += *infos[n].Whiteouts; whiteouts > s.limits.Whiteouts {
			return unpin, tooManyWhiteouts(&s.limits)
		}
		if l.base, err = s.baseOf(ctx, infos[:n], infos[n]); err != nil {
			return unpin, err
		}
		if l.none() {
			continue
		}
		unpins = append(unpins, s.pin([]string{l.id()}))
		if infos[n], err = s.getLayer(ctx, src, l, p); err != nil {
			return unpin, err
		}
	}
	return unpin, nil
}

// baseOf returns what a layer has to have on the layers below it.
func (s *Store) baseOf(ctx context.Context, below []layerInfo, info layerInfo) (b base, err error) {
	if err := ctx.Err(); err != nil {
		return b, err
	}
	for _, dir := range info.Implied {
		st, _, err := s.lookup(ctx, below, dir)
		if err != nil {
			return b, err
		}
		if st == nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if d := (dirAttr{Path: dir, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid)}); d.Mode != 0o755 || d.UID != 0 || d.GID != 0 {
			b.dirs = append(b.dirs, d)
		}
	}
	for _, target := range info.Links {
		st, layer, err := s.lookup(ctx, below, target)
		if err != nil {
			return b, err
		}
		if st == nil {
			return b, errorf(ErrCorrupt, "a layer has a hard link to %.128q, which neither it nor a layer below has", target)
		}
		b.links = append(b.links, link{target, layer})
	}
	if *info.Whiteouts == 0 {
		return b, nil
	}
	names, err := s.whiteouts(ctx, info)
	if err != nil {
		return b, err
	}
	for _, name := range names {
		st, _, err := s.lookup(ctx, below, name)
		if err != nil {
			return b, err
		}
		// An older version left one where the layer itself hides what is below.
		if st == nil || s.hides(info, name) {
			b.drop = append(b.drop, name)
		}
	}
	return b, nil
}

func tooManyWhiteouts(l *limits) error {
	return errorf(ErrTooBig, "the layers have more than %d whiteouts together", l.Whiteouts)
}

// whiteouts lists those of a layer.
func (s *Store) whiteouts(ctx context.Context, info layerInfo) (names []string, err error) {
	top := s.path("layers/sha256", info.ID)
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type()&fs.ModeCharDevice != 0 && isWhiteout(path) {
			if len(names) == s.limits.Whiteouts {
				return tooManyWhiteouts(&s.limits)
			}
			names = append(names, strings.TrimPrefix(path, top+"/"))
		}
		return ctx.Err()
	})
	slices.Sort(names)
	return names, err
}

// lookup finds what layers are at a path together, and the layer that has it, or nil.
func (s *Store) lookup(ctx context.Context, layers []layerInfo, name string) (*unix.Stat_t, string, error) {
	for _, l := range slices.Backward(layers) {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		path := s.path("layers/sha256", l.ID)
		there, hidden := true, l.Opaque
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil, "", fmt.Errorf("layer %.12s: %w", l.ID, err)
		}
		if name != "." {
			for part := range strings.SplitSeq(name, "/") {
				if st.Mode&unix.S_IFMT != unix.S_IFDIR {
					return nil, "", nil // it hides what is below it
				}
				path = filepath.Join(path, part)
				if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
					there = false
					break
				} else if err != nil {
					return nil, "", fmt.Errorf("layer %.12s: %w", l.ID, err)
				}
				hidden = hidden || st.Mode&unix.S_IFMT == unix.S_IFDIR && isOpaque(path)
			}
		}
		switch {
		case there && st.Mode&unix.S_IFMT == unix.S_IFCHR:
			return nil, "", nil // a whiteout: there are no other devices
		case there:
			return &st, l.ID, nil
		case hidden:
			return nil, "", nil
		}
	}
	return nil, "", nil
}

// hides reports whether a layer shows nothing of those below in the directory that a path
// is in.
func (s *Store) hides(info layerInfo, name string) bool {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if isOpaque(s.path("layers/sha256", info.ID, dir)) {
			return true
		}
	}
	return info.Opaque
}

func isOpaque(path string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}
