package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Effective is what the last container of a box was made of: what the configuration says,
// and the image where that says nothing.
type Effective struct {
	Command     []string `json:"command"` // with the entrypoint
	Workdir     string   `json:"workdir"`
	User        string   `json:"user"`         // UID:GID in the container
	ImageDigest *string  `json:"image_digest"` // null for a rootfs
}

// processFile is, in a box's directory, a containerProcess.
const processFile = "process.json"

// containerProcess is the process of a box's last container: what an exec has in common
// with it, also for the next daemon.
type containerProcess struct {
	specs.Process
	Image  string   `json:"imageDigest,omitempty"`  // that the container was made from
	Mounts []string `json:"mountTargets,omitempty"` // absolute
	// HomeSet says that HOME is that of the configuration or the image, whoever the user.
	HomeSet bool `json:"homeSet,omitempty"`
}

func (p *containerProcess) effective() *Effective {
	return &Effective{
		Command: orEmpty(p.Args), Workdir: p.Cwd, User: fmt.Sprintf("%d:%d", p.User.UID, p.User.GID), ImageDigest: unlessZero(p.Image),
	}
}

func (b *Box) keepProcess(p *containerProcess) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	dir, err := b.pin()
	if err != nil {
		return err
	}
	return errors.Join(replaceFile(dir, processFile, text, loose), dir.Close())
}

// readBackProcess returns what is on record of the last container; nothing is recorded of
// a box that had none.
func (b *Box) readBackProcess() (*containerProcess, error) {
	p := &containerProcess{}
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
