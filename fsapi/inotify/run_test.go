package inotify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is mounted at the path may be another daemon's by now.
func TestTheNotifierActsOnItsOwnMountAlone(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "x"), 0o700))
	var st syscall.Stat_t
	must(t, syscall.Stat(dir, &st))
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	rmdir := []Request{{Rmdir, "x"}}
	must(t, carryOut(dir, encode("1"+device, rmdir)))
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Errorf("it has worked on what is not its own: %v", err)
	}
	must(t, carryOut(dir, encode(device, rmdir)))
	if _, err := os.Stat(filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has not worked on its own: %v", err)
	}
	for _, bad := range []string{"Rx", "Zx\x00", "\x00"} {
		if err := carryOut(dir, []byte(device+"\x00"+bad)); err == nil {
			t.Errorf("%q is taken for a message", bad)
		}
	}
}

func TestTheGreatestMessage(t *testing.T) {
	var requests []Request
	for range MaxRequests {
		requests = append(requests, Request{Touch, strings.Repeat("x", MaxPath)})
	}
	message := encode("4095:1048575", requests)
	if len(message) > maxMessage {
		t.Fatalf("it has %d bytes, and the notifier reads %d", len(message), maxMessage)
	}
}
