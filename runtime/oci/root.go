package oci

import (
	"fmt"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/userdb"
)

// Root is what the root file system of a container is made of.
type Root struct {
	// Layers are absolute paths, the uppermost first.
	Layers []string
	// Upper is the absolute path of the directory that has "upper" and "work", for the changes.
	// If it is empty, there is one layer, and that is changed.
	Upper string
	// Image is nil for a directory.
	Image *image.Image
}

// ImageLayers are the inode numbers of the layers of the image that the root is made of. A layer
// can be fetched anew, under the same name, while an old one is in use.
func (r *Root) ImageLayers() (inodes []uint64, err error) {
	if r.Image == nil {
		return nil, nil
	}
	for _, dir := range r.Layers {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		inodes = append(inodes, st.Ino)
	}
	return inodes, nil
}

// users is the root as the command will see it, to look up users in.
func (r *Root) users(mounts []config.Mount) *userdb.Root {
	u := &userdb.Root{Layers: r.Layers, Mounts: map[string]string{}}
	if r.Upper != "" {
		u.Layers = append([]string{filepath.Join(r.Upper, "upper")}, r.Layers...)
	}
	for _, m := range mounts {
		u.Mounts[path.Clean(m.Target)] = m.Source
	}
	return u
}

// image is the image of the root, an empty one for a directory.
func (r *Root) image() *image.Image {
	if r.Image == nil {
		return &image.Image{}
	}
	return r.Image
}
