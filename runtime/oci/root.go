package oci

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/image"
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
