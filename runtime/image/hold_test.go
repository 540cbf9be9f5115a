package image

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
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

// TestTheNamesOfBlobsAreNotTheStores: a rename waits for the journal of a slow disk, and the
// end of the store, and who looks for an image, must not.
func TestTheNamesOfBlobsAreNotTheStores(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	src := &registrySource{store: s, ref: parse(t, "docker://127.0.0.1:1/a:1")}
	path, part := s.blobPath("00"), s.partPath("00", src.registry())
	rename := func() error {
		src.hold("00")
		defer src.done(false)
		for range 2 {
			if err := os.WriteFile(part, nil, 0o600); err != nil {
				return err
			}
			if err := s.arrive(part, path); err != nil {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			err = s.discredit(f, path)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return os.WriteFile(part, nil, 0o600) // which done renames
	}
	ended := make(chan error, 1)
	s.mu.Lock()
	go func() { ended <- rename() }()
	select {
	case err := <-ended:
		s.mu.Unlock()
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		s.mu.Unlock()
		t.Errorf("a rename waits for the store; %v", <-ended)
	}
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
