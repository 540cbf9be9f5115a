package fsapi

import (
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// OnPanic sets how the daemon ends when the handler of a request panics. end gets the value
// of the panic and the stack, and does not return. Without OnPanic the process ends as any Go
// program does. It comes before Serve.
//
// go-fuse recovers the panic of a handler, answers EIO and goes on. But what the handler was
// doing is half done then, and it may hold a lock for good. Whoever needs that lock would
// hang, and not even SIGTERM would end the daemon. A daemon that ends does less harm: its
// boxes live on, and the next daemon adopts them.
//
// A goroutine that a handler has started is not recovered by anybody: its panic ends the
// process as Go does.
func (f *FS) OnPanic(end func(value any, stack []byte)) { f.end = end }

// panicked is called by go-fuse while the stack still has the function that panicked.
func (f *FS) panicked(value any) fuse.Status {
	stack := debug.Stack()
	if f.end != nil {
		f.end(value, stack)
	}
	go panic(value) // nobody recovers in a goroutine of its own
	select {}
}
