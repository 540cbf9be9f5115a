package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// mountedLayers is what the boxes that run have for their roots, as the boxes' own records
// say: a record of the store may be lost, and the store must not clear away what is mounted
// then. Where a box's record does not tell, nothing is cleared away.
func (rt *Runtime) mountedLayers() (use image.Use, err error) {
	entries, err := os.ReadDir(filepath.Join(rt.store.dir, "boxes"))
	if err != nil {
		return use, fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !ValidName(e.Name()) {
			continue
		}
		live, err := readRecord(rt.store.boxDir(e.Name()), shimFile, decodeShim)
		if errors.Is(err, fs.ErrNotExist) {
			// It never ran, or its record is lost; then the other one tells of an image.
			state, err := readRecord(rt.store.boxDir(e.Name()), stateFile, decodeState)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				use.All = true
			case state.Image != "":
				use.Unknown = append(use.Unknown, state.Image)
			}
			continue
		}
		if err == nil {
			var lives bool
			if lives, err = reaper.Lives(rt.bootID, live.Identity); err == nil && !lives {
				continue
			}
		}
		switch {
		case err != nil:
			rt.log.WithField("op", "recover").WithField("box", e.Name()).WithError(err).Warn("it is not known which layers the box has mounted: none is cleared away")
			use.All = true
		case len(live.Layers) > 0:
			use.Layers = append(use.Layers, live.Layers...)
		case live.Image != "":
			use.Unknown = append(use.Unknown, live.Image) // begun by an older boxlite, or renewed
		default:
			cfg, err := config.Parse(e.Name(), []byte(live.Config))
			use.All = use.All || err != nil || cfg.Image != ""
		}
	}
	return use, nil
}

// readRecord reads a record and leaves it as it is.
func readRecord[T any](dir, name string, decode func([]byte) (*T, error)) (*T, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return decode(b)
}
