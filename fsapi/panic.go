package fsapi

import (
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// OnPanic says how the daemon ends when a request has met a bug: end gets what was
// panicked with and the stack, and does not return. Without it the process ends as Go
// ends one. It comes before Serve.
//
// go-fuse recovers what a request panics with, answers EIO and goes on. What the request
// was doing is half done then, and a lock that it held is held for good: whoever needs it
// would hang, and not even SIGTERM would end the daemon. One that ends does less harm: the
// boxes live on, and the next daemon finds them.
func (f *FS) OnPanic(end func(value any, stack []byte)) { f.end = end }

// panicked is called while the stack of the panic still stands.
func (f *FS) panicked(value any) fuse.Status {
	stack := debug.Stack()
	if f.end != nil {
		f.end(value, stack)
	}
	go panic(value) // nobody recovers in a goroutine of its own
	select {}
}
