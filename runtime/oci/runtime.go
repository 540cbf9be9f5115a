package oci

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// Find finds an OCI runtime on PATH: the one of that name, or the first of config.Runtimes.
func Find(name string) (found, path string, err error) {
	for _, r := range config.Runtimes {
		if name != "" && r != name {
			continue
		}
		path, err := exec.LookPath(r)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			// The shim covers /run, where some hosts have links to their programs.
			path, err = filepath.EvalSymlinks(path)
		}
		if err == nil {
			return r, path, nil
		}
	}
	if name != "" {
		return "", "", fmt.Errorf("runtime: %s is not on the daemon's PATH: install it (apt-get install %s), or leave the key runtime out", name, name)
	}
	return "", "", errors.New("engine container needs an OCI runtime, and neither crun nor runc is on the daemon's PATH: install one (apt-get install crun)")
}
