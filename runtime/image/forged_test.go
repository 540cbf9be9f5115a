package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// forged begins a layer that takes its unpacker over: what follows is the answer.
const forged = "forged answer\n"

// forge is that unpacker.
func forge() bool {
	layer := make([]byte, 1<<20)
	n, err := unix.Pread(unpackInput, layer, 0)
	if err != nil {
		return false // a pipe
	}
	text, ok := bytes.CutPrefix(layer[:n], []byte(forged))
	if ok {
		_, err = os.Stdout.Write(text)
	}
	return ok && err == nil
}

func TestAForgedAnswerIsRefused(t *testing.T) {
	many := func(n int) []string { return strings.Split(strings.Repeat("d ", n)+"d", " ")[:n] }
	l := defaultLimits
	l.Implied = 3
	for name, c := range map[string]struct {
		answer unpacked
		right  bool
	}{
		"right":                  {unpacked{Implied: append(many(3), "."), Links: []string{"a/b", "c", "d"}}, true},
		"a link out of it":       {unpacked{Links: []string{"../../etc/shadow"}}, false},
		"a link from the root":   {unpacked{Links: []string{"/etc/shadow"}}, false},
		"a link on the way":      {unpacked{Links: []string{"a/../../etc/shadow"}}, false},
		"a link to nothing":      {unpacked{Links: []string{""}}, false},
		"a directory out of it":  {unpacked{Implied: []string{"a", "../../etc"}}, false},
		"too many directories":   {unpacked{Implied: many(5)}, false},
		"too many links":         {unpacked{Links: many(4)}, false},
		"whiteouts less than 0":  {unpacked{Whiteouts: -1}, false},
		"a size that is below 0": {unpacked{Size: -1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+layerRoot, 0o755); err != nil {
				t.Fatal(err)
			}
			u, err := unpackForged(t, order{Dir: dir, Limits: l}, c.answer)
			if c.right && (err != nil || len(u.Links) != 3) {
				t.Errorf("%+v %v", u, err)
			}
			if !c.right && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%+v %v", u, err)
			}
		})
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc", dir+layerRoot); err != nil {
		t.Fatal(err)
	}
	if u, err := unpackForged(t, order{Dir: dir, Limits: l}, unpacked{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a layer that is a symbolic link: %+v %v", u, err)
	}
}

func unpackForged(t *testing.T, o order, answer unpacked) (unpacked, error) {
	t.Helper()
	text, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/layer"
	if err := os.WriteFile(path, append([]byte(forged), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	return unpack(t.Context(), in, o)
}

func TestARecordWithPathsOutOfALayerIsRefused(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		info  layerInfo
		right bool
	}{
		"right":             {layerInfo{Implied: []string{".", "a/b"}, Links: []string{"c"}}, true},
		"a directory":       {layerInfo{Implied: []string{"../../etc"}}, false},
		"a link":            {layerInfo{Links: []string{"../../etc/shadow"}}, false},
		"too many links":    {layerInfo{Links: strings.Split(strings.Repeat("d ", defaultLimits.Implied)+"d", " ")}, false},
		"whiteouts below 0": {layerInfo{Whiteouts: new(-1)}, false},
	} {
		c.info.ID = strings.Repeat("0", 64)
		b, err := json.Marshal(record{Version: recordVersion, Name: "a@" + strings.Repeat("0", 12), Digest: digest, Layers: []layerInfo{c.info}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(b); (err == nil) != c.right {
			t.Errorf("%s: %v", name, err)
		}
	}
}
