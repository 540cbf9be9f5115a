// Package inotify has a process, the notifier, make inotify events of what the daemon
// changes by itself.
//
// inotify sees the requests that go through a mount, and nothing else. So the daemon has
// the notifier make requests that change nothing but that watchers are told of them. It is a
// process because no thread of the daemon may do this: one that waits for an answer of the
// daemon cannot be killed. It would keep /dev/fuse open, and so nobody would ever get an
// answer. The notifier has no such descriptor, and its requests fail when the daemon dies.
//
// Run is the life of that process, and Process what the daemon has of it.
package inotify

import (
	"bytes"
	"errors"
)

// Op is what the notifier does with a path.
type Op byte

const (
	// Touch gives a file a new time: MODIFY.
	Touch Op = 'T'
	// Rmdir removes a directory: DELETE in the directory that it is in.
	Rmdir Op = 'R'
	// Unlink removes a file: DELETE_SELF.
	Unlink Op = 'U'
)

// Request is one request to the filesystem.
type Request struct {
	Op   Op
	Path string // below the mount
}

const (
	// MaxRequests is how many requests a notifier is given at once: few, so that one that
	// is late hangs, and the machine is not just busy.
	MaxRequests = 33
	// MaxPath is the length of the longest path, in bytes.
	MaxPath = 160
	// maxMessage is the size of a message, in bytes.
	maxMessage = len("4095:1048575\x00") + MaxRequests*(1+MaxPath+1)
)

// encode makes a message: the device of the mount and the requests. Each begins with its
// Op, and a zero byte ends each part.
func encode(device string, requests []Request) []byte {
	out := append(make([]byte, 0, maxMessage), device...)
	out = append(out, 0)
	for _, r := range requests {
		out = append(out, byte(r.Op))
		out = append(out, r.Path...)
		out = append(out, 0)
	}
	return out
}

var errCutShort = errors.New("a message that is cut short")

// next takes a request off a message. The path keeps its zero byte, as the kernel wants it.
func next(message []byte) (op Op, path, rest []byte, err error) {
	end := bytes.IndexByte(message, 0)
	if end < 1 {
		return 0, nil, nil, errCutShort
	}
	return Op(message[0]), message[1 : end+1], message[end+1:], nil
}
