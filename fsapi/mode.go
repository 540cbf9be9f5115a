package fsapi

import "github.com/hanwen/go-fuse/v2/fuse"

// noMode marks the mode of a mkdir whose client asks for no particular one: mkdir(1) and the
// like ask for 0777, and the kernel masks it by the umask. It is no bit of a mode.
const noMode = 1 << 31

// private are the files that tell what boxes say and do, below the root and in each box.
var private = map[string]bool{
	"log": true, "info.json": true, "events": true, "stats": true, "metrics": true, "wait/log": true, "wait/event": true,
}

// KeepPrivate hides what boxes say and do from all but their owner and group. It comes before
// Serve.
func (f *FS) KeepPrivate() { f.private = true }

// mode returns the mode of a file of that name which has the given one by default.
func (f *FS) mode(name string, mode uint32) uint32 {
	if f.private && private[name] {
		return mode &^ 0o007
	}
	return mode
}

func markMode(in *fuse.MkdirIn) {
	if in.Mode&0o777 == 0o777&^in.Umask {
		in.Mode |= noMode
	}
}
