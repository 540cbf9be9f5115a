package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stage puts what hard links lead to where the unpacker finds it: copies, with all that
// they have. What is one file in its layer is copied once, so that it stays one. No name on
// the way to one is a symbolic link: lookup has seen them.
func (s *Store) stage(ctx context.Context, dir string, links []link, o *order) error {
	if len(links) == 0 {
		return nil
	}
	if err := os.Mkdir(dir+linksRoot, 0o700); err != nil {
		return err
	}
	type file struct {
		layer string
		inode uint64
	}
	copies := map[file]string{}
	left := s.limits.Unpacked
	for n, k := range links {
		from, to := s.path("layers/sha256", k.layer, k.target), filepath.Join(dir+linksRoot, strconv.Itoa(n))
		var st unix.Stat_t
		err := ctx.Err()
		if err == nil {
			err = unix.Lstat(from, &st)
		}
		if first, ok := copies[file{k.layer, st.Ino}]; ok && err == nil {
			err = os.Link(first, to)
		} else if err == nil {
			if left -= st.Size; left < 0 {
				return errorf(ErrTooBig, "the layer has hard links to files of others with more than %d bytes together", s.limits.Unpacked)
			}
			copies[file{k.layer, st.Ino}] = to
			err = copyUp(ctx, from, to, &st)
		}
		if err != nil {
			return fmt.Errorf("hard link to %.128q: %w", k.target, err)
		}
		o.Links = append(o.Links, k.target)
	}
	return nil
}

// copyUp copies what can have hard links: a file, a symbolic link, or a fifo.
func copyUp(ctx context.Context, from, to string, st *unix.Stat_t) (err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = copyFile(ctx, from, to)
	case unix.S_IFLNK:
		var text string
		if text, err = os.Readlink(from); err == nil {
			err = os.Symlink(text, to)
		}
	case unix.S_IFIFO:
		err = unix.Mkfifo(to, 0o600)
	default:
		return errorf(ErrCorrupt, "it is a directory")
	}
	if err == nil {
		err = unix.Lchown(to, int(st.Uid), int(st.Gid))
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(to, st.Mode&0o7777) // after the owner, which takes setuid away
	}
	if err == nil {
		err = copyAttributes(from, to)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

func copyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, &contextReader{ctx, in, nil})
	return errors.Join(err, out.Close())
}

func copyAttributes(from, to string) error {
	names := make([]byte, 64<<10) // the kernel has no more of one file
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !keeps(name) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
