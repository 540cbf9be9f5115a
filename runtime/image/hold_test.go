package image

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
)

// TestWhoHoldsABlobKeepsIt: others that let go of it at the same time take nothing away.
func TestWhoHoldsABlobKeepsIt(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	ref := parse(t, "docker://127.0.0.1:1/a:1")
	const hex = "00"
	pull := func() error {
		src := &registrySource{store: s, ref: ref}
		src.hold(hex)
		defer src.done(false)
		path := s.partPath(hex, src.registry())
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		mine, err := f.Stat()
		if err != nil {
			return err
		}
		for range 3 {
			runtime.Gosched()
			if there, err := os.Stat(path); err != nil {
				return err
			} else if !os.SameFile(there, mine) {
				return fmt.Errorf("another file is there")
			}
		}
		return nil
	}
	var pulls sync.WaitGroup
	for range 2 { // with more there is seldom nobody who holds it
		pulls.Go(func() {
			for range 3000 {
				if err := pull(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pulls.Wait()
	nothingHalf(t, s)
}

// TestABadBlobTakesNoGoodOneAway: one that was found bad is removed, and not what has come
// to its place meanwhile.
func TestABadBlobTakesNoGoodOneAway(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	path := s.blobPath("00")
	put := func(text string) *os.File {
		part := s.partPath("00", text)
		if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.arrive(part, path); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	bad, good := put("bad"), put("good")
	if err := s.discredit(bad, path); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "good" {
		t.Errorf("what has come is %q, %v", b, err)
	}
	for range 2 { // the second time it is not there
		if err := s.discredit(good, path); err != nil {
			t.Error(err)
		}
	}
	nothingHalf(t, s)
}
