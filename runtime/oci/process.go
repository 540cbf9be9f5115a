package oci

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/userdb"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Process is the process of a container, with what the execs in it have to know, also those of
// the next daemon. It is kept as JSON.
type Process struct {
	specs.Process
	Image  string   `json:"imageDigest,omitempty"`  // that the container was made from
	Mounts []string `json:"mountTargets,omitempty"` // absolute
	// StopSignal is what a stop sends; 0 on the record of an older boxlite, which sent SIGTERM
	// if the configuration did not say.
	StopSignal syscall.Signal `json:"stopSignal,omitempty"`
	// HomeSet says that HOME is that of the configuration or the image, whoever the user.
	HomeSet bool `json:"homeSet,omitempty"`
}

// newProcess is what a container runs: what the configuration says, and the image where that
// says nothing. all are the capabilities that there are to give.
func newProcess(ctx context.Context, c *config.Config, root *Root, all uint64) (*specs.Process, error) {
	img := root.image()
	args := slices.Clone(img.Entrypoint)
	if c.Entrypoint != nil {
		args = slices.Clone(c.Entrypoint)
	}
	if len(c.Command) > 0 {
		args = append(args, c.Command...)
	} else if c.Entrypoint == nil {
		args = append(args, img.Cmd...)
	}
	if len(args) == 0 {
		return nil, errors.New("the image does not say what it runs: add command to the configuration")
	}
	name := c.User
	if name == "" {
		name = img.User
	}
	u, err := User(ctx, root.users(c.Mounts), name)
	if err != nil {
		return nil, err
	}
	env := map[string]string{"PATH": DefaultPath, "HOME": u.Home}
	maps.Copy(env, parseEnv(img.Env))
	maps.Copy(env, c.Env)
	p := &specs.Process{
		Args: args, Cwd: "/", Env: Environ(env), User: specUser(u),
		NoNewPrivileges: c.Security.NoNewPrivileges,
		Capabilities:    capabilities(&c.Security, all, u.UID == 0),
	}
	for _, dir := range []string{img.WorkingDir, c.Workdir} {
		if filepath.IsAbs(dir) {
			p.Cwd = filepath.Clean(dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Rlimits)) {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: c.Rlimits[name].Soft, Hard: c.Rlimits[name].Hard})
	}
	return p, nil
}

func specUser(u userdb.User) specs.User {
	return specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups}
}

// setsHome reports whether HOME is the box's own, and not that of a user.
func setsHome(c *config.Config, root *Root) bool {
	if _, set := c.Env["HOME"]; set {
		return true
	}
	_, set := parseEnv(root.image().Env)["HOME"]
	return set
}

// Exec is the process of an exec in the container. who is the user that cmd names; it does not
// matter if cmd names none.
func (p *Process) Exec(s *config.Security, cmd *config.Exec, who userdb.User) *specs.Process {
	x := p.Process
	x.Args = cmd.Command
	env := map[string]string{}
	for _, kv := range x.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if cmd.User != "" {
		x.User = specUser(who)
		// No more than the command can have: the container may be one of an older boxlite.
		var most uint64
		if x.Capabilities != nil {
			most = config.CapabilityMask(x.Capabilities.Bounding)
		}
		x.Capabilities = capabilities(s, most, who.UID == 0)
		if !p.HomeSet {
			env["HOME"] = who.Home
		}
	}
	if cmd.Workdir != "" {
		x.Cwd = cmd.Workdir
	}
	if cmd.TTY {
		x.Terminal, x.ConsoleSize = true, &specs.Box{Height: wire.TTYRows, Width: wire.TTYCols}
		env["TERM"] = "xterm"
	}
	maps.Copy(env, cmd.Env)
	x.Env = Environ(env)
	return &x
}
