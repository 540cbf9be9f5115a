package main

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody who has the same socket may have made it one that does not wait.
func TestASocketThatDoesNotWaitIsWaitedForWithoutSpinning(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader := os.NewFile(uintptr(ends[1]), "reader")
	defer reader.Close()
	text := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	type result struct {
		n    int
		err  error
		used time.Duration
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for the count of its time
		before := threadTime()
		n, err := patient(ends[0]).Write(text)
		used := threadTime() - before
		done <- result{n, err, used}
		if err := unix.Close(ends[0]); err != nil {
			t.Error(err)
		}
	}()
	const stands = 500 * time.Millisecond // so long nobody reads
	select {
	case r := <-done:
		t.Fatalf("it has not waited: %+v", r)
	case <-time.After(stands):
	}
	got, err := io.ReadAll(reader)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(text), err)
	}
	if r := <-done; r.n != len(text) || r.err != nil || r.used > stands/4 {
		t.Errorf("%+v", r)
	}
}

// Nobody will ever read: that ends it.
func TestAClosedSocketIsNotWaitedFor(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader := os.NewFile(uintptr(ends[1]), "reader")
	failed := make(chan error, 1)
	go func() {
		_, err := patient(ends[0]).Write(make([]byte, 1<<20))
		failed <- err
	}()
	if _, err := io.ReadFull(reader, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		if err == nil {
			t.Error("all was written, to nobody")
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits")
	}
	if err := unix.Close(ends[0]); err != nil {
		t.Error(err)
	}
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}
