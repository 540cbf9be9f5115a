package oci

import (
	"os"
	"path/filepath"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheRuntimeIsFoundWhereItReallyIs(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "real"), []byte("#!/bin/sh\n"), 0o700))
	must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	must(t, os.Symlink("../real", filepath.Join(dir, "bin", "crun")))
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	name, path, err := Find("")
	must(t, err)
	if want := filepath.Join(dir, "real"); name != "crun" || path != want {
		t.Errorf("found %s at %s, not crun at %s", name, path, want)
	}
}
