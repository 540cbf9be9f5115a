// Package sys has what every caller of raw system calls does about their ends.
package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Close closes a descriptor whose close can lose nothing: it was not written
// to, or has been synced, or nobody could be told.
func Close(fd int) { _ = unix.Close(fd) }

// Retry makes a system call again when a signal cut it short. The runtime of Go
// sends itself some at any time.
func Retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
