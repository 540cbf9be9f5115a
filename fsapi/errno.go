package fsapi

import (
	"context"
	"errors"
	"syscall"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/rootfs"
)

// errnos maps errors of the core to what a client gets. The order counts where one error
// wraps another: a start that fails is EIO, whatever it failed of.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{runtime.ErrStart, syscall.EIO},
	{runtime.ErrTimedOut, syscall.ETIMEDOUT},
	{runtime.ErrCanceled, syscall.ECANCELED},
	{config.ErrTooBig, syscall.EFBIG},
	{runtime.ErrName, syscall.EINVAL},
	{runtime.ErrInvalid, syscall.EINVAL},
	{runtime.ErrExist, syscall.EEXIST},
	{runtime.ErrRemoved, syscall.ENODEV},
	{rootfs.ErrEnded, syscall.ENODEV},
	{runtime.ErrBusy, syscall.EBUSY},
	{runtime.ErrNotConfigured, syscall.ENODATA},
	{runtime.ErrNoProcess, syscall.ESRCH},
	{rootfs.ErrNoProcess, syscall.ESRCH},
	{runtime.ErrNoExec, syscall.ENOENT},
	{runtime.ErrDenied, syscall.EPERM},
	{errRevoked, syscall.EACCES},
	{runtime.ErrPipe, syscall.EPIPE},
	{runtime.ErrDescriptors, syscall.ENFILE},
	{runtime.ErrClosed, syscall.ESHUTDOWN},
	{image.ErrClosed, syscall.ESHUTDOWN},
	{image.ErrInUse, syscall.EBUSY},
	{image.ErrNotFound, syscall.ENOENT},
	{context.Canceled, syscall.EINTR},
	// Errors of the disk are passed on as they are.
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.EDQUOT, syscall.EDQUOT},
	{syscall.EROFS, syscall.EROFS},
	{syscall.EMFILE, syscall.EMFILE},
	{syscall.ENFILE, syscall.ENFILE},
	{syscall.ENOMEM, syscall.ENOMEM},
}

// toErrno gives the errno for an error of the core, and is the only place that does. EIO
// stands for an error that is not in errnos.
func toErrno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	if errors.As(err, new(*config.Error)) {
		return syscall.EINVAL
	}
	return syscall.EIO
}
