package rootfs

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIdsOfABox(t *testing.T) {
	m := IDs{Base: 300000, Size: 65536}
	for host, want := range map[uint32]uint32{0: 65534, 299999: 65534, 300000: 0, 301000: 1000, 365535: 65535, 365536: 65534, 1<<32 - 1: 65534} {
		if got := m.shown(host); got != want {
			t.Errorf("%d on the host is shown as %d, not %d", host, got, want)
		}
	}
	r, dir, path := testRoot(t, m)
	f, info, err := r.Create(t.Context(), path+"/f", unix.O_WRONLY, 0o4777, 0, 0)
	must(t, err)
	f.Close()
	if info.UID != 0 || info.GID != 0 || info.Mode != unix.S_IFREG|0o4777 {
		t.Errorf("a new file is of %d:%d, mode %o", info.UID, info.GID, info.Mode)
	}
	owner := func(name string, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Lstat(dir+"/"+name, &st))
		if st.Uid != uid || st.Gid != gid {
			t.Errorf("%s is of %d:%d on the host, not %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
	owner("f", 300000, 300000)
	_, err = r.Mkdir(t.Context(), path+"/d", 0o755, 1000, 1001)
	must(t, err)
	owner("d", 301000, 301001)
	_, err = r.Symlink(t.Context(), "x", path+"/l", 70000, 70000) // whom the box does not know
	must(t, err)
	owner("l", 300000, 300000)
	id := uint32(7)
	must(t, r.Change(t.Context(), path+"/f", Change{UID: &id}))
	owner("f", 300007, 300000)
	id = 65536
	fails(t, "an id that the box does not have", r.Change(t.Context(), path+"/f", Change{GID: &id}), unix.EINVAL)
	// Whoever made them, and whatever thread this test runs on, has its own ids again.
	for range 100 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if u, _ := unix.SetfsuidRetUid(-1); u != 0 {
					t.Errorf("a thread has kept the id %d", u)
				}
			})
		}
		wg.Wait()
	}
}

// The box may have been given a directory of the host. Where it is nobody, the daemon
// does nothing for it.
func TestWhatIsNotTheBoxsIsNotTouched(t *testing.T) {
	m := IDs{Base: 300000, Size: 65536}
	r, dir, path := testRoot(t, m)
	must(t, os.Mkdir(dir+"/host", 0o755))
	must(t, os.Mkdir(dir+"/host/closed", 0o700))
	put(t, dir+"/host/public", "public")
	put(t, dir+"/host/closed/f", "x")
	must(t, os.WriteFile(dir+"/host/secret", []byte("secret"), 0o640))
	host := path + "/host"
	f, err := r.Open(t.Context(), host+"/public", unix.O_RDONLY)
	must(t, err)
	f.Close()
	_, err = r.Open(t.Context(), host+"/public", unix.O_WRONLY)
	fails(t, "writing a file of the host", err, unix.EACCES)
	_, err = r.Open(t.Context(), host+"/public", unix.O_RDONLY|unix.O_TRUNC)
	fails(t, "truncating it by an open", err, unix.EACCES)
	fails(t, "truncating it", r.Change(t.Context(), host+"/public", Change{Size: new(int64)}), unix.EACCES)
	_, err = r.Open(t.Context(), host+"/secret", unix.O_RDONLY)
	fails(t, "reading a secret", err, unix.EACCES)
	_, err = r.Lstat(t.Context(), host+"/closed/f")
	fails(t, "searching a closed directory", err, unix.EACCES)
	_, err = r.ReadDir(t.Context(), host+"/closed")
	fails(t, "listing it", err, unix.EACCES)
	_, _, err = r.Create(t.Context(), host+"/new", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "making a file", err, unix.EACCES)
	_, _, err = r.Create(t.Context(), host+"/public", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "making it again", err, unix.EACCES)
	_, err = r.Mkdir(t.Context(), host+"/new", 0o755, 0, 0)
	fails(t, "making a directory", err, unix.EACCES)
	fails(t, "removing a file", r.Remove(t.Context(), host+"/public", false), unix.EACCES)
	fails(t, "moving it away", r.Rename(t.Context(), host+"/public", path+"/public", 0), unix.EACCES)
	_, err = r.Link(t.Context(), host+"/public", path+"/public")
	fails(t, "another name for it", err, unix.EPERM)
	id, mode := uint32(0), uint32(0o777)
	fails(t, "chown", r.Change(t.Context(), host+"/public", Change{UID: &id}), unix.EPERM)
	fails(t, "chmod", r.Change(t.Context(), host+"/public", Change{Mode: &mode}), unix.EPERM)
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	fails(t, "touch", r.Change(t.Context(), host+"/public", Change{Mtime: &now}), unix.EPERM)
	// As in /tmp: everybody may make files, and remove his own.
	must(t, os.Chmod(dir+"/host", 0o777|os.ModeSticky))
	f, _, err = r.Create(t.Context(), host+"/mine", unix.O_WRONLY, 0o644, 0, 0)
	must(t, err)
	f.Close()
	fails(t, "removing a file of the host in a sticky directory", r.Remove(t.Context(), host+"/public", false), unix.EPERM)
	must(t, r.Remove(t.Context(), host+"/mine", false))
	text, err := os.ReadFile(dir + "/host/public")
	if err != nil || string(text) != "public" {
		t.Errorf("the file of the host has %q, %v", text, err)
	}
}
