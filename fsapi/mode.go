package fsapi

import "github.com/hanwen/go-fuse/v2/fuse"

// noMode marks the mode of a mkdir whose client asks for none: mkdir(1) and the like say
// 0777, from which the kernel takes the umask. It is none of the bits of a mode.
const noMode = 1 << 31

func markMode(in *fuse.MkdirIn) {
	if in.Mode&0o777 == 0o777&^in.Umask {
		in.Mode |= noMode
	}
}
