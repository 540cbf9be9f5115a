package runtime

import (
	"slices"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/oci"
)

// Features returns what this host can do, one word each, sorted.
func (rt *Runtime) Features() []string {
	words := append([]string{"engine.host"}, reaper.Features()...)
	if mounts, err := procfs.Self.Mounts(-1); err == nil {
		v1, v2 := false, false
		for m := range mounts {
			v1 = v1 || m.Type == "cgroup"
			v2 = v2 || m.Type == "cgroup2"
		}
		switch {
		case v1 && v2:
			words = append(words, "cgroup.hybrid", "cgroup.v1", "cgroup.v2")
		case v1:
			words = append(words, "cgroup.v1")
		case v2:
			words = append(words, "cgroup.v2")
		}
	}
	words = append(words, rt.groups.Features()...)
	for _, name := range config.Runtimes {
		if _, _, err := oci.Find(name); err == nil {
			words = append(words, "engine.container:"+name)
		}
	}
	slices.Sort(words)
	return words
}
