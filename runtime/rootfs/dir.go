package rootfs

import (
	"context"
	"encoding/binary"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir reads the names in a directory.
type Dir struct {
	*openFile
	// hidden says that it is in a mount that is not entered: it shows no names.
	hidden    bool
	dev       uint64
	buf, rest []byte
}

// Entry is a name in a directory.
type Entry struct {
	Name string
	Ino  uint64
	Mode uint32 // the type, 0 if it is not known
	Off  uint64 // where the next one is, for Seek
}

// ReadDir opens a directory, or gives ESTALE for anything else.
func (r *Root) ReadDir(ctx context.Context, path string) (d *Dir, err error) {
	err = r.at(ctx, path, func(p *place) error {
		switch {
		case p.hidden:
			d = &Dir{openFile: &openFile{root: r, fd: -1}, hidden: true}
			return nil
		case !p.is(unix.S_IFDIR):
			return unix.ESTALE
		case !r.may(p, mayRead):
			return unix.EACCES
		}
		fd, err := reopen(p.fd, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		d = &Dir{openFile: r.keep(fd), dev: unix.Mkdev(p.st.Dev_major, p.st.Dev_minor), buf: make([]byte, 8<<10)}
		return nil
	})
	return d, err
}

// Next returns the next name, or io.EOF.
func (d *Dir) Next(ctx context.Context) (e Entry, err error) {
	if d.hidden {
		return e, io.EOF
	}
	if len(d.rest) == 0 {
		err := d.use(ctx, func(fd int) error {
			n, err := retry(func() (int, error) { return unix.Getdents(fd, d.buf) })
			d.rest = d.buf[:max(n, 0)]
			return err
		})
		if err != nil {
			return e, err
		}
		if len(d.rest) == 0 {
			return e, io.EOF
		}
	}
	// struct linux_dirent64: ino, off, length of the record, type, name.
	const head = 19
	size := int(binary.NativeEndian.Uint16(d.rest[16:]))
	name := string(d.rest[head:size])
	if end := strings.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	e = Entry{
		Name: name, Off: binary.NativeEndian.Uint64(d.rest[8:]),
		Ino: shownIno(d.dev, binary.NativeEndian.Uint64(d.rest)), Mode: shownType(uint32(d.rest[18]) << 12),
	}
	d.rest = d.rest[size:]
	return e, nil
}

// Seek goes to Off of an entry, where the one after it is, or to the beginning at 0.
func (d *Dir) Seek(ctx context.Context, off uint64) error {
	if d.hidden {
		return nil
	}
	d.rest = nil
	return d.use(ctx, func(fd int) error {
		_, err := unix.Seek(fd, int64(off), io.SeekStart)
		return err
	})
}

// Sync is fsync(2) of the directory.
func (d *Dir) Sync(ctx context.Context) error {
	if d.hidden {
		return nil
	}
	return d.openFile.Sync(ctx)
}
