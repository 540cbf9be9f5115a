package rootfs

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatIsNoFileIsNotOpened(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	for name, kind := range map[string]uint32{"fifo": unix.S_IFSOCK, "null": unix.S_IFCHR} {
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR | unix.O_TRUNC} {
			_, err := r.Open(t.Context(), path+"/"+name, flags)
			fails(t, name, err, unix.EACCES)
		}
		_, _, err := r.Create(t.Context(), path+"/"+name, unix.O_WRONLY, 0o644, 0, 0)
		fails(t, "create over "+name, err, unix.EACCES)
		info, err := r.Lstat(t.Context(), path+"/"+name)
		if err != nil || info.Mode&unix.S_IFMT != kind {
			t.Errorf("%s looks like %o, %v", name, info.Mode, err)
		}
		must(t, r.Remove(t.Context(), path+"/"+name, false))
	}
}
