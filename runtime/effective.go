package runtime

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/oci"
)

// Effective is what the last container of a box was made of: what the configuration says,
// and the image where that says nothing.
type Effective struct {
	Command     []string `json:"command"` // with the entrypoint
	Workdir     string   `json:"workdir"`
	User        string   `json:"user"`         // UID:GID in the container
	ImageDigest *string  `json:"image_digest"` // null for a rootfs
	StopSignal  string   `json:"stop_signal"`
}

// processFile is, in a box's directory, the oci.Process of its last container.
const processFile = "process.json"

// effectiveOf is what the container that runs p was made of.
func effectiveOf(p *oci.Process) *Effective {
	return &Effective{
		Command: orEmpty(p.Args), Workdir: p.Cwd, User: fmt.Sprintf("%d:%d", p.User.UID, p.User.GID), ImageDigest: unlessZero(p.Image),
		StopSignal: config.SignalName(cmp.Or(p.StopSignal, syscall.SIGTERM)),
	}
}

func (b *Box) keepProcess(p *oci.Process) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	dir, err := b.pin()
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, processFile, text, atomicfile.BestEffort), dir.Close())
}

// readBackProcess returns what is on record of the last container; nothing is recorded of
// a box that had none.
func (b *Box) readBackProcess() (*oci.Process, error) {
	p := &oci.Process{}
	dir, err := b.pin()
	if err != nil {
		return nil, err
	}
	text, err := dir.ReadFile(processFile)
	err = errors.Join(err, dir.Close())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", processFile, err)
	}
	return p, nil
}
