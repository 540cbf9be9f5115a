package oci

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/opencontainers/cgroups"
)

// foreignHierarchies lists the mounts of cgroup hierarchies that an OCI runtime is
// not to see. In those the box has no cgroup, and the runtime would make one there. dirs are the
// directories of the box's cgroup, by controller.
func foreignHierarchies(dirs map[string]string, runtime string) ([]string, error) {
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, m := range mounts {
		if runtime != "crun" && slices.ContainsFunc(m.Subsystems, func(c string) bool { return dirs[c] != "" }) {
			continue
		}
		out = append(out, m.Mountpoint)
	}
	return append(out, hybridMount), nil
}

// hybridMount is where hosts with cgroup v1 have v2.
const hybridMount = "/sys/fs/cgroup/unified"
