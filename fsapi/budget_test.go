package fsapi

import (
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func newTestBudget() *budget {
	return newBudget(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"resource"}))
}

func TestABudgetBoundsEachUserAndAllOfThemButNotRoot(t *testing.T) {
	b := newTestBudget()
	handle := uint64(0)
	open := func(uid uint32, n int) syscall.Errno {
		for range n {
			if errno := b.take(uid, amount{files: 1}); errno != 0 {
				return errno
			}
			b.opened(uid, handle)
			handle++
		}
		return 0
	}
	if errno := open(0, allFiles+1); errno != 0 {
		t.Errorf("root: %v", errno)
	}
	if errno := open(1, userFiles); errno != 0 {
		t.Errorf("as many as a user may: %v", errno)
	}
	if errno := open(1, 1); errno != syscall.ENFILE {
		t.Errorf("one more: %v", errno)
	}
	for uid := uint32(2); uid <= allFiles/userFiles; uid++ {
		if errno := open(uid, userFiles); errno != 0 {
			t.Errorf("user %d: %v", uid, errno)
		}
	}
	if errno := open(1000, 1); errno != syscall.ENFILE {
		t.Errorf("more than all may: %v", errno)
	}
	var refused dto.Metric
	if err := b.noFiles.Write(&refused); err != nil || refused.Counter.GetValue() != 2 {
		t.Errorf("%v refusals counted: %v", refused.Counter.GetValue(), err)
	}
	for h := range handle {
		b.released(h)
	}
	if len(b.users) != 0 || len(b.open) != 0 || b.all != (amount{}) {
		t.Errorf("left: %v, %d open, %v", b.users, len(b.open), b.all)
	}
}

func TestALeaseIsOfBytes(t *testing.T) {
	b := newTestBudget()
	ctx := &fuse.Context{Caller: fuse.Caller{Owner: fuse.Owner{Uid: 1}}}
	all, errno := b.lease(ctx, userBytes)
	if errno != 0 {
		t.Fatal(errno)
	}
	if _, errno := b.lease(ctx, 1); errno != syscall.EDQUOT {
		t.Errorf("one more: %v", errno)
	}
	all.end()
	lease{}.end()
	// What is taken and given back at once by many adds up to nothing.
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			for range 100 {
				l, errno := b.lease(ctx, 1<<20)
				if errno == 0 {
					l.end()
				}
			}
		})
	}
	work.Wait()
	if len(b.users) != 0 || b.all != (amount{}) {
		t.Errorf("left: %v, %v", b.users, b.all)
	}
}

// blockedWrites is a filesystem of one file whose writes wait, or are offered in the
// second way only.
type blockedWrites struct {
	fuse.RawFileSystem
	begun, end chan struct{}
}

func (w *blockedWrites) Writev(_ <-chan struct{}, _ *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) > 1 {
		return 0, fuse.ENOSYS
	}
	return w.Write(nil, nil, data[0])
}

func (w *blockedWrites) Write(_ <-chan struct{}, _ *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	w.begun <- struct{}{}
	<-w.end
	return uint32(len(data)), fuse.OK
}

func TestWritesThatWaitAreHeldAgainstTheirUser(t *testing.T) {
	const size = 30 << 20
	whole := make([]byte, size)
	for way, parts := range map[string][][]byte{
		"one slice":                       {whole},
		"two slices, which come together": {whole[:size-1], whole[size-1:]},
	} {
		t.Run(way, func(t *testing.T) {
			b := newTestBudget()
			w := &blockedWrites{fuse.NewDefaultRawFileSystem(), make(chan struct{}), make(chan struct{})}
			fs := count(w, newMetrics(prometheus.NewRegistry(), func(err error) { t.Error(err) }), newLane(), b)
			// As go-fuse asks.
			write := func(uid uint32) fuse.Status {
				in := &fuse.WriteIn{}
				in.Uid = uid
				_, status := fs.Writev(nil, in, parts)
				if status == fuse.ENOSYS {
					_, status = fs.Write(nil, in, whole)
				}
				return status
			}
			var work sync.WaitGroup
			begin := func(uid uint32) {
				work.Go(func() {
					if status := write(uid); !status.Ok() {
						t.Errorf("user %d: %v", uid, status)
					}
				})
				<-w.begun
			}
			const most = userBytes / (size + requestBytes)
			for range most {
				begin(1)
			}
			if b.all.bytes != most*(size+requestBytes) {
				t.Errorf("%d bytes are held for %d writes", b.all.bytes, most)
			}
			refused := make(chan fuse.Status, 1)
			go func() { refused <- write(1) }()
			select {
			case status := <-refused:
				if status != fuse.Status(syscall.EDQUOT) {
					t.Errorf("one more: %v", status)
				}
			case <-w.begun:
				t.Error("one more is let through")
			}
			for range most + 1 {
				begin(0)
			}
			begin(2)
			close(w.end)
			work.Wait()
			if len(b.users) != 0 || b.all != (amount{}) {
				t.Errorf("left: %v, %v", b.users, b.all)
			}
		})
	}
}
