package oci

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/userdb"
)

// What the configuration says comes before what the image says, and what a cmd says before both.
func TestWhatAContainerRuns(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("mary:x:7:8::/home/mary:/bin/sh\n"), 0o644))
	root := &Root{Layers: []string{dir}, Image: &image.Image{
		Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "B=image", "bad"}, WorkingDir: "/image", User: "mary",
	}}
	path := "PATH=" + DefaultPath
	for name, c := range map[string]struct {
		c    config.Config
		args []string
		env  []string
		cwd  string
		uid  uint32
	}{
		"the image":       {config.Config{}, []string{"entry", "cmd"}, []string{"A=image", "B=image", "HOME=/home/mary", path}, "/image", 7},
		"a command":       {config.Config{Command: []string{"x"}}, []string{"entry", "x"}, []string{"A=image", "B=image", "HOME=/home/mary", path}, "/image", 7},
		"no entrypoint":   {config.Config{Entrypoint: []string{}, Command: []string{"x"}}, []string{"x"}, []string{"A=image", "B=image", "HOME=/home/mary", path}, "/image", 7},
		"everything else": {config.Config{Env: map[string]string{"A": "box", "HOME": "/h"}, Workdir: "/box", User: "3"}, []string{"entry", "cmd"}, []string{"A=box", "B=image", "HOME=/h", path}, "/box", 3},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := newProcess(t.Context(), &c.c, root, 0)
			must(t, err)
			if !slices.Equal(p.Args, c.args) || !slices.Equal(p.Env, c.env) || p.Cwd != c.cwd || p.User.UID != c.uid {
				t.Errorf("it runs %q with %q in %s as %d", p.Args, p.Env, p.Cwd, p.User.UID)
			}
			made := &Process{Process: *p, HomeSet: setsHome(&c.c, root)}
			x := made.Exec(&c.c.Security, &config.Exec{Command: []string{"e"}, Env: map[string]string{"B": "exec"}, User: "john", Workdir: "/e"}, userdb.User{UID: 9, Home: "/home/john"})
			home := "HOME=/home/john"
			if made.HomeSet {
				home = "HOME=/h"
			}
			if !slices.Equal(x.Args, []string{"e"}) || !slices.Contains(x.Env, "B=exec") || !slices.Contains(x.Env, home) || x.Cwd != "/e" || x.User.UID != 9 {
				t.Errorf("the exec is %q with %q in %s as %d", x.Args, x.Env, x.Cwd, x.User.UID)
			}
			if !slices.Equal(made.Args, c.args) {
				t.Errorf("the exec has changed what the container runs to %q", made.Args)
			}
		})
	}
	if _, err := newProcess(t.Context(), &config.Config{Entrypoint: []string{}}, root, 0); err == nil {
		t.Error("a container without a command is made")
	}
}
