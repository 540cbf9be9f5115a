package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
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
		RegistryConfig: rt.opt.RegistryConfig, Log: rt.log, Changed: rt.imagesChanged, InUse: rt.mountedLayers,
	})
	rt.images = s
	return err
}

func (rt *Runtime) imagesChanged() {
	rt.imageTexts.keep(rt.images.List())
	if rt.opt.Observer != nil {
		rt.opt.Observer.ImagesChanged()
	}
}

// Images returns the store of images.
func (rt *Runtime) Images() *image.Store { return rt.images }

// RemoveImage removes an image that no box uses. The errors are image.ErrNotFound,
// image.ErrInUse and those of the disk; it does not wait for the deletion.
func (rt *Runtime) RemoveImage(name string) error {
	if rt.isClosing() {
		return ErrClosed
	}
	if i := rt.images.Get(name); i != nil {
		rt.imageInUse(i.Digest) // so that the store, under its lock, waits for no disk
	}
	if err := rt.images.Remove(name, rt.imageInUse); err != nil {
		return rt.RefuseImages(err)
	}
	return nil
}

// VerbPull and VerbPrune are the commands of images/ctl.
const (
	VerbPull  Verb = "pull"
	VerbPrune Verb = "prune"
)

// ImagesDo carries out a command of images/ctl: it accepts or refuses it at once, and
// returns the work it started, which goes on whether or not anybody waits for it.
func (rt *Runtime) ImagesDo(by By, c Command) (*Completion, error) {
	if rt.isClosing() {
		return nil, ErrClosed
	}
	note := fmt.Sprintf("by=%d:%d %s", by.UID, by.PID, c.Verb)
	var work func() error
	switch c.Verb {
	case VerbPull:
		note += " " + c.Image.String()
		work = func() error { return rt.pullImage(c.Image) }
	case VerbPrune:
		if c.All {
			note += " all"
		}
		work = func() error { return rt.pruneImages(c.All) }
	default:
		return nil, rt.RefuseImages(ErrInvalid)
	}
	rt.emit(nil, "command", note)
	done := newCompletion()
	rt.background(func() {
		err := work()
		if err != nil {
			err = rt.RefuseImages(err)
		} else {
			rt.noteImages("ok")
		}
		done.complete(err)
	})
	return done, nil
}

// pullImage asks where an image comes from for what its reference means now.
func (rt *Runtime) pullImage(ref image.Ref) error {
	told := -1
	img, release, err := rt.images.Refresh(context.Background(), ref, func(p image.Progress) {
		if p.Done != told {
			told = p.Done
			rt.emit(nil, "image", fmt.Sprintf("ref=%s step=%s layers=%d/%d bytes=%d/%d", ref, p.Step, p.Done, p.Layers, p.Bytes, p.Total))
		}
	})
	if err != nil {
		return err
	}
	defer release()
	rt.emit(nil, "image", fmt.Sprintf("ref=%s step=pulled name=%s digest=%s", ref, img.Name, img.Digest))
	return nil
}

// pruneImages removes the images that no box uses, and no reference means unless all are
// to go.
func (rt *Runtime) pruneImages(all bool) error {
	for _, i := range rt.images.List() {
		rt.imageInUse(i.Digest) // as in RemoveImage
	}
	removed, err := rt.images.Prune(all, rt.imageInUse)
	for _, name := range removed {
		rt.emit(nil, "image", "step=removed name="+name)
	}
	return err
}

// ImagesError returns the sentence of images/last_error, and when it was said.
func (rt *Runtime) ImagesError() (string, time.Time) {
	n := rt.imagesError.Load()
	return n.text, n.at
}

// RefuseImages notes in images/last_error why something was refused, and returns that.
func (rt *Runtime) RefuseImages(err error) error {
	rt.noteImages(oneLine(err.Error()))
	return err
}

// imagesNote is what images/last_error says.
type imagesNote struct {
	text string
	at   time.Time
}

func (rt *Runtime) noteImages(text string) {
	rt.imagesError.Store(&imagesNote{text, time.Now()})
	if rt.opt.Observer != nil {
		rt.opt.Observer.ImagesErrorChanged()
	}
}

// imageTexts are the texts of images, by digest, and what else they are made of.
type imageTexts struct {
	uses atomic.Uint64 // counts whatever may have changed which boxes use an image

	mu       sync.Mutex
	byDigest map[string]*texts[imageState]
}

// imageState is all that an image's ImageInfo is made of.
type imageState struct {
	image *image.Image // another one whenever anything of it differs
	uses  uint64
}

// keep forgets the texts of images that are gone.
func (t *imageTexts) keep(there []*image.Image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := make(map[string]*texts[imageState], len(there))
	for _, i := range there {
		if x := t.byDigest[i.Digest]; x != nil {
			kept[i.Digest] = x
		}
	}
	t.byDigest = kept
}

func (t *imageTexts) of(digest string) *texts[imageState] {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.byDigest[digest]
	if x == nil {
		if t.byDigest == nil {
			t.byDigest = map[string]*texts[imageState]{}
		}
		x = &texts[imageState]{}
		t.byDigest[digest] = x
	}
	return x
}

// ImageText returns ImageInfo as JSON.
func (rt *Runtime) ImageText(i *image.Image) *Text {
	st := imageState{i, rt.imageTexts.uses.Load()} // before the look at who uses it
	return rt.imageTexts.of(i.Digest).of(st, func() []byte { return indented(rt.ImageInfo(i)) })
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
