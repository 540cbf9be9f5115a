package runtime

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/boxlitefs/boxlite/runtime/image"
)

// ImageInfo is all that is known of an image, as info.json shows it. The environment of
// an image is no secret: whoever can pull it has it.
type ImageInfo struct {
	Name       string            `json:"name"`
	Digest     string            `json:"digest"`
	Refs       []string          `json:"refs"`
	Size       int64             `json:"size"`
	Layers     int               `json:"layers"`
	Created    *time.Time        `json:"created"`
	Pulled     *time.Time        `json:"pulled"`
	Entrypoint []string          `json:"entrypoint"`
	Cmd        []string          `json:"cmd"`
	Env        []string          `json:"env"`
	User       string            `json:"user"`
	WorkingDir string            `json:"workdir"`
	StopSignal string            `json:"stop_signal"`
	Labels     map[string]string `json:"labels"`
	UsedBy     []string          `json:"used_by"`
}

// openImages opens the store of images.
func (rt *Runtime) openImages() error {
	s, err := image.Open(filepath.Join(rt.opt.State, "images"), image.Options{
		RegistryConfig: rt.opt.RegistryConfig, Log: rt.log, Changed: rt.imagesChanged,
	})
	rt.images = s
	return err
}

func (rt *Runtime) imagesChanged() {
	if rt.opt.Observer != nil {
		rt.opt.Observer.ImagesChanged()
	}
}

// Images returns the store of images.
func (rt *Runtime) Images() *image.Store { return rt.images }

// RemoveImage removes an image that no box needs. The errors are image.ErrNotFound,
// image.ErrInUse and those of the disk; it does not wait for the deletion.
func (rt *Runtime) RemoveImage(name string) error {
	if rt.isClosing() {
		return ErrClosed
	}
	return rt.images.Remove(name, func(digest string) (string, bool) {
		box, ok := rt.imageUsed(digest)
		return fmt.Sprintf("box %q", box), ok
	})
}

// imageUsed returns a box that needs an image.
func (rt *Runtime) imageUsed(digest string) (box string, ok bool) {
	if users := rt.imageUsers(digest); len(users) > 0 {
		return users[0], true
	}
	return "", false
}

func (rt *Runtime) imageUsers(digest string) []string {
	users := []string{}
	for _, b := range rt.Boxes() {
		b.mu.Lock()
		used := b.record.Image == digest && !b.removed
		b.mu.Unlock()
		if used {
			users = append(users, b.Name())
		}
	}
	return users
}

// ImageInfo returns what is known of an image.
func (rt *Runtime) ImageInfo(i *image.Image) ImageInfo {
	info := ImageInfo{
		Name: i.Name, Digest: i.Digest, Refs: orEmpty(i.Refs), Size: i.Size, Layers: len(i.Layers), Created: stamp(i.Created), Pulled: stamp(i.Pulled),
		Entrypoint: orEmpty(i.Entrypoint), Cmd: orEmpty(i.Cmd), Env: orEmpty(i.Env), User: i.User, WorkingDir: i.WorkingDir, StopSignal: i.StopSignal,
		Labels: i.Labels, UsedBy: rt.imageUsers(i.Digest),
	}
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	return info
}
