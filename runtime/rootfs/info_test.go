package rootfs

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNumbersOfFilesAreNotMixedUp(t *testing.T) {
	seen := map[uint64]string{}
	for dev := range uint64(50) {
		for ino := range uint64(200) {
			n := shownIno(unix.Mkdev(0, uint32(dev)), ino)
			what := strconv.Itoa(int(dev)) + ":" + strconv.Itoa(int(ino))
			if seen[n] != "" {
				t.Errorf("%s and %s have one number", what, seen[n])
			}
			seen[n] = what
			if n < 1<<62 || n >= 1<<63 {
				t.Errorf("%s has the number %x, which may be one of the control filesystem", what, n)
			}
		}
	}
}
