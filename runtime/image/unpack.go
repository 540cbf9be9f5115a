package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// unpack unpacks a layer below dir, in a directory named layer, by an unpacker.
func unpack(ctx context.Context, layer *os.File, o order) (unpacked, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return unpacked{}, err
	}
	alive, held, err := os.Pipe()
	if err != nil {
		return unpacked{}, err
	}
	defer held.Close()
	var out, crash tail
	// The file may have been replaced by an upgrade; this is what runs.
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{UnpackerName}
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=2", "GOTRACEBACK=none"}
	if race := os.Getenv("GORACE"); race != "" { // of a binary for tests
		cmd.Env = append(cmd.Env, "GORACE="+race)
	}
	cmd.Stdin = bytes.NewReader(text)
	cmd.Stdout, cmd.Stderr = &out, &crash
	cmd.ExtraFiles = []*os.File{layer, alive}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
	}
	err = cmd.Start()
	_ = alive.Close()
	if err != nil {
		return unpacked{}, fmt.Errorf("start the unpacker: %w", err)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return unpacked{}, ctx.Err()
	}
	var u unpacked
	if jerr := json.Unmarshal(out.bytes, &u); jerr != nil {
		if err == nil {
			err = jerr
		}
		return unpacked{}, fmt.Errorf("the unpacker died (%w): %s", err, crash.line())
	}
	switch {
	case u.Error != "" && u.Errno != 0:
		return unpacked{}, &kindError{kind: syscall.Errno(u.Errno), text: plain(u.Error)}
	case u.Error != "" && kinds[u.Kind] != nil:
		return unpacked{}, &kindError{kind: kinds[u.Kind], text: u.Error}
	case u.Error != "":
		return unpacked{}, errors.New(plain(u.Error))
	}
	if err == nil {
		err = u.check(&o)
	}
	if err != nil {
		return unpacked{}, err
	}
	return u, nil
}

// check refuses what no unpacker answers that is itself: a layer may have taken it over,
// and the daemon follows the names, outside of what confines the unpacker.
func (u *unpacked) check(o *order) error {
	if fi, err := os.Lstat(o.Dir + layerRoot); err != nil {
		return err
	} else if !fi.IsDir() {
		return errorf(ErrCorrupt, "the unpacker has made no directory of the layer")
	}
	if u.Size < 0 {
		return errorf(ErrCorrupt, "the unpacker answers with %d bytes", u.Size)
	}
	if err := checkNames(u.Implied, u.Links, u.Whiteouts, o.Limits.Implied); err != nil {
		return errorf(ErrCorrupt, "the unpacker answers with what cannot be in a layer: %w", err)
	}
	return nil
}

// checkNames says what of a layer, as its unpacker or a record describes it, cannot be.
func checkNames(implied, links []string, whiteouts, most int) error {
	if len(implied) > most+1 { // and the root
		return fmt.Errorf("it has %d directories without an entry", len(implied))
	}
	if len(links) > most {
		return fmt.Errorf("it has %d hard links to files of others", len(links))
	}
	if whiteouts < 0 {
		return fmt.Errorf("it has %d whiteouts", whiteouts)
	}
	for _, names := range [][]string{implied, links} {
		for _, name := range names {
			if !fs.ValidPath(name) {
				return fmt.Errorf("it has the path %.128q", name)
			}
		}
	}
	return nil
}

// plain takes the unpacker's own root out of a path.
func plain(s string) string { return strings.ReplaceAll(s, layerRoot+"/", "/") }

// tail keeps the first part of what is written: an answer is short.
type tail struct{ bytes []byte }

// line is the beginning of it, on one line.
func (t *tail) line() string {
	lines := strings.FieldsFunc(string(t.bytes[:min(len(t.bytes), 512)]), func(r rune) bool { return r < ' ' })
	return strings.Join(lines, "; ")
}

const tailMax = 4 << 20

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p[:min(len(p), tailMax-len(t.bytes))]...)
	return len(p), nil
}
