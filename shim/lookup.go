//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// lookup finds the file to execute for spec.Argv[0], in the current mount
// namespace. Whether the box's user may execute it is left for execve to say.
func lookup(spec *wire.Spec) (string, *wire.StartError) {
	name := spec.Argv[0]
	if strings.Contains(name, "/") {
		return name, checkExecutable(name, inWorkdir(spec, name))
	}
	var unusable *wire.StartError
	for _, file := range wire.Candidates(spec.Env, name) {
		var st unix.Stat_t
		if err := unix.Stat(inWorkdir(spec, file), &st); err != nil {
			continue
		}
		bad := executable(file, &st)
		if bad == nil {
			return file, nil
		}
		if unusable == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			unusable = bad
		}
	}
	if unusable != nil {
		return "", unusable
	}
	return "", &wire.StartError{Step: wire.StepLookup, Errno: unix.ENOENT, Detail: `command "` + name + `" not found in PATH ` + wire.SearchPath(spec.Env)}
}

// inWorkdir gives the place of a path that the command will see from its
// working directory.
func inWorkdir(spec *wire.Spec, path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return spec.Workdir + "/" + path
}

func checkExecutable(name, path string) *wire.StartError {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &wire.StartError{Step: wire.StepLookup, Errno: toErrno(err), Detail: `command "` + name + `" not found`}
	}
	if err != nil {
		return wire.NewStartError(wire.StepExec, "cannot run "+name, err)
	}
	return executable(name, &st)
}

func executable(name string, st *unix.Stat_t) *wire.StartError {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return &wire.StartError{Step: wire.StepExec, Errno: unix.EISDIR, Detail: "cannot run " + name}
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		return &wire.StartError{Step: wire.StepExec, Errno: unix.EACCES, Detail: name + " is not executable"}
	}
	return nil
}
