package userdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// getentBound is how long the host's name services have for an answer.
	getentBound = 5 * time.Second
	// getentMax bounds an answer, in bytes.
	getentMax = 1 << 20
)

// nameServices are the sources of users and groups that nsswitch.conf(5) names. This
// program is not linked with a C library, which alone can ask them: getent(1) does.
type nameServices struct {
	config string // the path of nsswitch.conf
	bound  time.Duration
}

func hostServices() *nameServices {
	return &nameServices{config: "/etc/nsswitch.conf", bound: getentBound}
}

// neither goes on in a sentence that says who does not know somebody.
func (s *nameServices) neither() string {
	if s == nil {
		return ""
	}
	return ", nor has a service of " + s.config
}

// ask returns the entry of key in a database, or "" if there is none.
func (s *nameServices) ask(ctx context.Context, database, key string) (string, error) {
	if s == nil || strings.HasPrefix(key, "-") { // getent would take that for a flag
		return "", nil
	}
	if there, err := s.beyondFiles(database); err != nil || !there {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.bound)
	defer cancel()
	var out, complaint cappedBuffer
	cmd := exec.CommandContext(ctx, "getent", database, key)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// What it may leave running has its pipe: that is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	const notFound = 2
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return "", fmt.Errorf("getent %s %s: the host's name services have not answered within %s", database, key, s.bound)
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.As(err, &exit) && exit.ExitCode() == notFound:
		return "", nil
	case err != nil:
		return "", fmt.Errorf("getent %s %s: %w %.200s", database, key, err, bytes.TrimSpace(complaint.Bytes()))
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	return line, nil
}

// beyondFiles reports whether a database has other sources than the files, which were
// read already.
func (s *nameServices) beyondFiles(database string) (bool, error) {
	text, err := os.ReadFile(s.config)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sources := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if name, list, ok := strings.Cut(line, ":"); ok {
			sources[strings.TrimSpace(name)] = strings.Fields(list)
		}
	}
	list, has := sources[database]
	if !has && database == "initgroups" {
		list = sources["group"]
	}
	action := false // as in [NOTFOUND=return]
	for _, word := range list {
		action = action || strings.HasPrefix(word, "[")
		if !action && word != "files" {
			return true, nil
		}
		action = action && !strings.HasSuffix(word, "]")
	}
	return false, nil
}

// cappedBuffer takes at most getentMax bytes.
type cappedBuffer struct{ bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > getentMax {
		return 0, fmt.Errorf("it says more than %d bytes", getentMax)
	}
	return b.Buffer.Write(p)
}
