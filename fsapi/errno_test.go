package fsapi

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
)

func TestErrnoLooksThroughWrapping(t *testing.T) {
	wrap := func(err error) error { return &runtime.Error{Box: "b", Op: "o", Err: fmt.Errorf("why: %w", err)} }
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{wrap(runtime.ErrBusy), syscall.EBUSY},
		{wrap(&runtime.TransitionError{From: "a", To: "b"}), syscall.EBUSY},
		{wrap(&config.Error{Line: 1}), syscall.EINVAL},
		{wrap(config.ErrTooBig), syscall.EFBIG},
		{wrap(fmt.Errorf("%w: %w", runtime.ErrStart, syscall.ENOENT)), syscall.EIO},
		{wrap(fmt.Errorf("%w: %w", runtime.ErrStart, runtime.ErrCanceled)), syscall.EIO},
		{wrap(syscall.ENOSPC), syscall.ENOSPC},
		{errors.New("unheard of"), syscall.EIO},
		{wrap(syscall.ENOSYS), syscall.EIO},
	} {
		if got := toErrno(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
