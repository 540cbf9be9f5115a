//go:build linux && (amd64 || arm64)

package shim

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// execOrder is what an exec is to run. It lies outside of the heap, which is never collected
// in a shim that does nothing but supervise, and is given back when the exec has begun.
type execOrder struct {
	wire.ExecOrder
	region unsafe.Pointer // mapped
	size   uintptr
}

// read reads the order of an exec in its directory.
func (o *execOrder) read(dir int) error {
	fd, err := sys.Retry(func() (int, error) { return unix.Openat(dir, wire.ExecSpecName, unix.O_RDONLY|execFD, 0) })
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Size > wire.MaxSpec || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EINVAL
	}
	return o.load(int(st.Size), func(b []byte) (int, error) {
		return sys.Retry(func() (int, error) { return unix.Read(fd, b) })
	})
}

// load maps a region, fills size bytes of it by read, and takes the order from there.
func (o *execOrder) load(size int, read func([]byte) (int, error)) error {
	const word = int(unsafe.Sizeof(uintptr(0)))
	table := (size + word) / word * word
	words := wire.ExecPointers(size)
	total := uintptr(table + words*word)
	region, err := unix.MmapPtr(-1, 0, nil, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	*o = execOrder{region: region, size: total}
	text := unsafe.Slice((*byte)(region), size)
	for rest := text; len(rest) > 0; {
		n, err := read(rest)
		if err == nil && n == 0 {
			err = unix.EINVAL
		}
		if err != nil {
			o.free()
			return err
		}
		rest = rest[n:]
	}
	var ok bool
	if o.ExecOrder, ok = wire.DecodeExecOrder(text, unsafe.Slice((**byte)(unsafe.Add(region, table)), words)); !ok {
		o.free()
		return unix.EINVAL
	}
	return nil
}

// free gives the region back. Nothing of the order may be used any more.
func (o *execOrder) free() {
	if o.region == nil {
		return
	}
	if err := unix.MunmapPtr(o.region, o.size); err != nil {
		fatal("munmap", err)
	}
	*o = execOrder{}
}

// name returns the first word of the command.
func (o *execOrder) name() string { return cString(o.Argv[0]) }

func (o *execOrder) env() []string {
	env := make([]string, 0, len(o.Envv)-1)
	for _, p := range o.Envv[:len(o.Envv)-1] {
		env = append(env, cString(p))
	}
	return env
}

// cString copies a string that ends with a NUL.
func cString(p *byte) string { return unix.BytePtrToString(p) }
