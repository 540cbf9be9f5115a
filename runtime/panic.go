package runtime

import (
	"fmt"
	"runtime/debug"
)

// endOnPanic is deferred in what is called by a library that would recover a panic and go
// on: Prometheus makes an error of the scrape of it. A bug ends the daemon wherever it is
// met, since a lock may be held; the boxes live on.
func endOnPanic() {
	if v := recover(); v != nil {
		go panic(fmt.Sprintf("%v\n\n%s", v, debug.Stack())) // nobody recovers in a goroutine of its own
		select {}
	}
}
