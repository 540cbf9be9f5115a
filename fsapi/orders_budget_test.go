package fsapi

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/boxlitefs/boxlite/runtime"
)

// heldTarget begins whatever it is told to, and ends nothing until all is to end.
type heldTarget struct {
	*fakeTarget
	refuse error

	mu    sync.Mutex
	held  []func(error)
	over  bool
	fails error
}

func (h *heldTarget) Do(runtime.By, runtime.Command) (*runtime.Completion, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return nil, h.refuse
	}
	work, end := runtime.NewCompletion()
	if h.over {
		end(h.fails)
	} else {
		h.held = append(h.held, end)
	}
	return work, nil
}

// endAll ends what has begun and what will begin.
func (h *heldTarget) endAll(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over, h.fails = true, err
	for _, end := range h.held {
		end(err)
	}
}

// fill writes the same through one open after the other until the budget refuses it, and
// returns the opens that have something to do.
func fill(t *testing.T, f target, b *budget, by runtime.By, writes [][]runtime.Command) []*orders {
	t.Helper()
	var opens []*orders
	for len(opens) <= (userBytes+allOrders)/requestBytes {
		q := &orders{to: f, budget: b}
		for _, commands := range writes {
			err := q.add(by, proc{pid: by.PID}, commands)
			if errors.Is(err, syscall.EDQUOT) {
				if q.now != nil {
					opens = append(opens, q)
				}
				return opens
			}
			must(t, err)
		}
		opens = append(opens, q)
	}
	t.Fatal("a user is not held")
	return nil
}

// What carries them out is counted as well: there is one such for each open.
func TestOrdersCountUntilTheyAreOver(t *testing.T) {
	if size := int(unsafe.Sizeof(order{}) + unsafe.Sizeof(runtime.Completion{})); size > orderBytes {
		t.Errorf("an order of %d bytes counts as %d", size, orderBytes)
	}
	by := runtime.By{UID: 7, PID: 1}
	var many []runtime.Command
	for range maxQueue / 2 {
		many = append(many, command("signal 1"))
	}
	for name, c := range map[string]struct {
		writes [][]runtime.Command
		want   int // opens
		end    error
	}{
		"some each":               {writes: [][]runtime.Command{many[:3]}, want: userOrders / (requestBytes + 3*orderBytes)},
		"long queues, which fail": {writes: [][]runtime.Command{many, many}, want: userOrders / (requestBytes + maxQueue*orderBytes), end: errors.New("bad")},
	} {
		t.Run(name, func(t *testing.T) {
			f := &heldTarget{fakeTarget: newFakeTarget()}
			b := newTestBudget()
			opens := fill(t, f, b, by, c.writes)
			if len(opens) != c.want {
				t.Errorf("%d opens have commands that wait, not %d", len(opens), c.want)
			}
			// Another user, and root, have their own.
			must(t, (&orders{to: f, budget: b}).add(runtime.By{PID: 2}, proc{pid: 2}, many))
			must(t, (&orders{to: f, budget: b}).add(runtime.By{UID: 8, PID: 3}, proc{pid: 3}, many[:1]))
			f.endAll(c.end)
			for _, q := range opens {
				if err := verdict(t, q, by.PID); !errors.Is(err, c.end) {
					t.Fatalf("told %v", err)
				}
			}
			await(t, "all to be given back", b.nothing)
		})
	}
}

// nothing reports whether nobody holds anything.
func (b *budget) nothing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.users) == 0 && b.all == (amount{})
}

// Commands wait as long as their grace, and nobody needs to be there for them. So whoever
// else has a request, and who has written them himself, has room for it.
func TestCommandsThatWaitLeaveRoomForRequests(t *testing.T) {
	f := &heldTarget{fakeTarget: newFakeTarget()}
	b := newTestBudget()
	many := slices.Repeat([]runtime.Command{command("stop 1")}, maxQueue/2)
	const users = allOrders/userOrders + 1
	for uid := uint32(1); uid <= users; uid++ {
		fill(t, f, b, runtime.By{UID: uid, PID: int(uid)}, [][]runtime.Command{many, many})
		fill(t, f, b, runtime.By{UID: uid, PID: int(uid)}, [][]runtime.Command{many[:1]})
	}
	if opens := fill(t, f, b, runtime.By{UID: 1000, PID: 1000}, [][]runtime.Command{many[:1]}); len(opens) > 0 {
		t.Errorf("another user has commands that wait in %d opens more", len(opens))
	}
	fs := &counted{budget: b}
	for _, uid := range []uint32{1000, 1} {
		done, errno := fs.charge(uid, 1<<20)
		if errno != 0 {
			t.Errorf("a request of user %d: %v", uid, errno)
			continue
		}
		done()
	}
	f.endAll(nil)
	await(t, "all to be given back", b.nothing)
}

// A kill is how a user ends his commands that wait. It lasts no longer than a request.
func TestAKillCountsAsARequest(t *testing.T) {
	f := &heldTarget{fakeTarget: newFakeTarget()}
	b := newTestBudget()
	by := runtime.By{UID: 7, PID: 1}
	signals := slices.Repeat([]runtime.Command{command("signal 1")}, maxQueue/2)
	kill := command("kill")
	open := fill(t, f, b, by, [][]runtime.Command{signals, signals})[0]
	fill(t, f, b, by, [][]runtime.Command{signals[:1]})
	if got := b.users[7].bytes; got != 0 {
		t.Fatalf("what waits counts %d bytes of requests", got)
	}
	// What stands behind a kill waits, and counts so.
	for name, commands := range map[string][]runtime.Command{"one": {kill, signals[0]}, "a kill": {kill, kill}, "many": append([]runtime.Command{kill}, signals...)} {
		if err := (&orders{to: f, budget: b}).add(by, proc{pid: 1}, commands); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("%s behind a kill: %v", name, err)
		}
	}
	if err := open.add(by, proc{pid: 1}, []runtime.Command{kill}); err != nil {
		t.Errorf("a kill through the open whose queue is full: %v", err)
	}
	if got := b.users[7].bytes; got != orderBytes {
		t.Errorf("it counts %d bytes", got)
	}
	// Its own bound is that of requests.
	opens := fill(t, f, b, by, [][]runtime.Command{{kill}})
	if want := (userBytes - orderBytes) / (requestBytes + orderBytes); len(opens) != want {
		t.Errorf("%d opens have a kill under way, not %d", len(opens), want)
	}
	// The first open has room again, and what waits behind a kill has it taken from there.
	before := b.users[7]
	must(t, opens[0].add(by, proc{pid: 1}, signals[:1]))
	want := before.plus(amount{bytes: -requestBytes, orders: requestBytes + orderBytes})
	if got := b.users[7]; got != want {
		t.Errorf("a command behind a kill makes it %+v of %+v, not %+v", got, before, want)
	}
	f.endAll(nil)
	await(t, "all to be given back", b.nothing)
}

func TestAnOrderThatCannotBeginCostsNothing(t *testing.T) {
	b := newTestBudget()
	bad := errors.New("bad")
	q := &orders{to: &heldTarget{refuse: bad, fakeTarget: newFakeTarget()}, budget: b}
	if err := q.add(runtime.By{UID: 7, PID: 1}, proc{pid: 1}, []runtime.Command{command("start 1")}); !errors.Is(err, bad) {
		t.Errorf("told %v", err)
	}
	if b.all != (amount{}) {
		t.Errorf("left: %v", b.all)
	}
}

// An open lives on in a child; its pid may be that of one that is gone.
func TestAProcessIsNotToldOfOneThatHadItsPid(t *testing.T) {
	bad := errors.New("bad")
	f := &heldTarget{fakeTarget: newFakeTarget()}
	f.endAll(bad)
	q := &orders{to: f}
	first, second := proc{pid: 1, began: 10}, proc{pid: 1, began: 20}
	for _, from := range []proc{first, second} {
		if q.wrote(from) != nil {
			t.Errorf("%v is told of what it has not written", from)
		}
		must(t, q.add(runtime.By{PID: from.pid}, from, []runtime.Command{command("start 1")}))
		w := q.wrote(from)
		<-w.idle
		if err := q.report(w); !errors.Is(err, bad) {
			t.Errorf("%v is told %v", from, err)
		}
	}
}

// maxPID is PID_MAX_LIMIT of linux/threads.h: no process has a higher pid.
const maxPID = 1 << 22

func TestFailuresThatNobodyIsLeftToBeToldOfAreForgotten(t *testing.T) {
	f := &heldTarget{fakeTarget: newFakeTarget()}
	f.endAll(errors.New("bad"))
	q := &orders{to: f}
	write := func(from proc) {
		must(t, q.add(runtime.By{PID: from.pid}, from, []runtime.Command{command("start 1")}))
		<-q.wrote(from).idle
	}
	self := procOf(os.Getpid())
	if self.began == 0 {
		t.Fatal("when this process began is not known")
	}
	write(self)
	for i := range 10 * maxFailed {
		write(proc{pid: maxPID + 1 + i, began: 1})
	}
	if len(q.writers) > maxFailed+1 {
		t.Errorf("%d are remembered", len(q.writers))
	}
	if q.wrote(self) == nil {
		t.Error("one that is there is not told")
	}
	// One that has the pid now, of which only the pid is known, is taken for the last that had it.
	next := proc{pid: self.pid, began: self.began + 1}
	if q.wrote(next) != nil {
		t.Error("one is told what another has failed at that had its pid")
	}
	write(next)
	if q.wrote(self) != nil || q.wrote(proc{pid: self.pid}) != q.writers[next] {
		t.Error("one that had the pid before is remembered")
	}
}

func TestAProcessIsGone(t *testing.T) {
	child := exec.Command("sleep", "60")
	must(t, child.Start())
	p := procOf(child.Process.Pid)
	if p.began == 0 || p.ended() {
		t.Errorf("%v is gone while it is there", p)
	}
	must(t, child.Process.Kill())
	if err := child.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	if !p.ended() {
		t.Errorf("%v is there when it is gone", p)
	}
	if (proc{}).ended() {
		t.Error("one of which nothing is known is gone")
	}
}
