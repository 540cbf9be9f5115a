package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestSecondDaemonIsToldWhoHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	must(t, err)
	_, err = openStore(dir)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Fatalf("got %v", err)
	}
	must(t, s.lock.Close())
	s, err = openStore(dir)
	must(t, err)
	must(t, s.lock.Close())
}

func TestBrokenRecordIsKeptAside(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "zeroes": "\x00\x00\x00", "half": `{"version":1,"run":"a","iden`, "other version": `{"version":2}`, "no run": `{"version":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, shimFile), []byte(text), 0o600))
			r, err := load(dir, shimFile, decodeShim)
			if r != nil || err == nil || !strings.Contains(err.Error(), shimFile+".bad") {
				t.Fatalf("got %v, %v", r, err)
			}
			kept, rerr := os.ReadFile(filepath.Join(dir, shimFile+".bad"))
			must(t, rerr)
			if string(kept) != text {
				t.Fatalf("kept %q", kept)
			}
		})
	}
	r, err := load(t.TempDir(), shimFile, decodeShim)
	if r != nil || err != nil {
		t.Fatalf("a record that is not there: %v, %v", r, err)
	}
}

func FuzzRecords(f *testing.F) {
	now := time.Unix(1, 2).UTC()
	add := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(stateRecord{Version: 1, Status: status.Stopped, Created: now, Owners: map[string]status.Owner{"ctl": {UID: 1, Mode: 0o600}}})
	add(shimRecord{Version: 1, Run: "r", Identity: reaper.Identity{BootID: "b", PID: 2}})
	f.Add((&wire.ExitRecord{Run: "r", Code: 137, Signal: 9}).AppendJSON(nil))
	f.Add([]byte(`{"version":1,"status":"stopped","owners":{"x":{"mode":99999}}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeState(b); err == nil {
			if r.Status.Active() || strings.ContainsAny(r.LastError, "\n\x00") || r.Runs < 0 {
				t.Errorf("accepted state %+v", r)
			}
		}
		if r, err := decodeShim(b); err == nil && (r.Identity.PID <= 1 || r.Run == "") {
			t.Errorf("accepted shim record %+v", r)
		}
		if r, err := decodeExit(b); err == nil {
			if r.Code < 0 || r.Code > 255 {
				t.Errorf("accepted exit record %+v", r)
			}
			// What the shim's own encoder makes of it reads back the same.
			again, err := decodeExit(r.AppendJSON(nil))
			if err != nil || !bytes.Equal(again.AppendJSON(nil), r.AppendJSON(nil)) {
				t.Errorf("round trip of %+v gave %+v, %v", r, again, err)
			}
		}
	})
}
