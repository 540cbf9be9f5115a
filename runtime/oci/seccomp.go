package oci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// crunFilter is the annotation with which crun takes a compiled filter. A crun that
// does not know it compiles the profile.
const crunFilter = "run.oci.seccomp_bpf_data"

const (
	// maxFilter is the longest filter that the kernel takes, in bytes.
	maxFilter = 4096 * sizeofInstruction
	// maxFilters bounds what is kept: few sets of capabilities are in use.
	maxFilters        = 64
	sizeofInstruction = 8
)

// Filters are seccomp profiles as crun has compiled them. To compile one is most of what crun
// does at a start (18 of 26 ms). The zero value has none.
type Filters struct {
	mu   sync.Mutex           // guards kept
	kept map[FilterKey]string // in base64
}

// A FilterKey stands for a profile and the program that has compiled it.
type FilterKey [sha256.Size]byte

// apply puts the filter of a spec's profile into the spec, for the runtime of that path, if the
// filter is known. Else it returns the key to learn it by.
func (f *Filters) apply(spec *specs.Spec, runtime string) (*FilterKey, error) {
	profile, err := json.Marshal(spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(runtime, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", runtime, err)
	}
	key := FilterKey(sha256.Sum256(fmt.Appendf(profile, "%s %d %d %d %d", runtime, st.Dev, st.Ino, st.Size, st.Ctim.Nano())))
	f.mu.Lock()
	defer f.mu.Unlock()
	filter, ok := f.kept[key]
	if !ok {
		return &key, nil
	}
	spec.Annotations = map[string]string{crunFilter: filter}
	return nil, nil
}

// Learn keeps the filter that the runtime has made for a container that runs. proc is the shim of
// that box. The file that has the filter belongs to the host's root, and is in the shim's mount
// namespace alone. There may be none: the error is then os.ErrNotExist, or os.ErrProcessDone or
// ESRCH if the run has ended.
func (f *Filters) Learn(key FilterKey, proc *reaper.Process, box string) error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/root%s", proc.PID(), wire.ContainerFilter(box)))
	if err != nil {
		return err
	}
	defer file.Close()
	// The pid was that of the shim when the file was opened.
	if proc.Reaped() {
		return os.ErrProcessDone
	}
	filter, err := io.ReadAll(io.LimitReader(file, maxFilter+1))
	if err != nil {
		return err
	}
	if len(filter) == 0 || len(filter) > maxFilter || len(filter)%sizeofInstruction != 0 {
		return fmt.Errorf("%d bytes are no filter", len(filter))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == nil || len(f.kept) >= maxFilters {
		f.kept = map[FilterKey]string{}
	}
	f.kept[key] = base64.StdEncoding.EncodeToString(filter)
	return nil
}
