package fsapi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/boxlitefs/boxlite/runtime"
)

// maxQueue is how many commands may wait behind one.
const maxQueue = 1024

// orderBytes is what a command costs its user until it is over. What is under way through
// an open costs requestBytes more.
//
// A kill that a write begins with costs as a request does, and not as what waits: it begins
// at once and is over within runtime.KillBound. So whose commands fill his share can end
// them. What stands behind it in the write waits like any other.
const orderBytes = 512

// maxFailed is how many processes that share an open may have failed, and been told so,
// before that is forgotten.
const maxFailed = 64

var (
	errTooMany   = errors.New("commands wait already")
	errOvertaken = fmt.Errorf("%w: a kill that was given later wins", runtime.ErrCanceled)
)

// target is what commands are given to.
type target interface {
	gone() bool
	// verbs are the commands it knows, for a message.
	verbs() string
	parse(words []string) (runtime.Command, error)
	Do(by runtime.By, c runtime.Command) (*runtime.Completion, error)
	// Kills is how many kills it has taken.
	Kills() uint64
	RefuseCommand(err error) error
}

// orders are the commands that are written through one open. They are carried out in
// order, and what stands behind one that failed is not begun: it was written in the belief
// that the first had worked.
//
// A kill is different. What was written before it and has not begun is not carried out any
// more; what is written after it is, however that before has ended. A kill that is written
// by itself begins at once, and one that stands behind a stop does so with the stop: it
// waits for no grace.
//
// What was accepted is carried out, also when the open is closed, or its writer dead. So it
// counts against its user's budget until it is over, by itself and not with the open: else
// who opens, writes and goes, again and again, would have any number of them wait.
type orders struct {
	to     target
	budget *budget

	mu      sync.Mutex
	carrier carrier  // pays for what carries them out, while something is under way
	now     *order   // under way; nil if nothing is
	queue   []*order // behind it
	writers map[proc]*writer
}

// order is one command.
type order struct {
	by      runtime.By
	from    proc
	command runtime.Command
	// epoch is how many kills the target had taken when the order was written, or was
	// given itself. Once it has taken more, the order is not begun.
	epoch uint64
	cost  amount
	begun bool
	work  *runtime.Completion // of what has begun
	err   error               // why it could not begin
	// cut: a kill of the same process has overtaken it, and how it ends is no failure.
	cut bool
}

// writer is a process that has written through the open. Its close waits for what it has
// written itself.
type writer struct {
	pending int           // orders that are not over
	idle    chan struct{} // closed when none is
	err     error         // of the first that failed; valid then
	told    bool
}

// carrier is who pays for what carries orders out, and how much.
type carrier struct {
	uid  uint32
	cost amount
}

// add accepts the commands of one write, or refuses them all.
func (q *orders) add(by runtime.By, from proc, commands []runtime.Command) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := make([]*order, 0, len(commands))
	epoch := q.to.Kills()
	for _, c := range commands {
		batch = append(batch, &order{by: by, from: from, command: c, epoch: epoch, cost: amount{orders: orderBytes}})
	}
	first := batch[0]
	kill := first.command.Verb == runtime.VerbKill
	if kill {
		first.cost = amount{bytes: orderBytes}
	}
	ahead := q.now != nil && kill
	if q.now != nil && !ahead && len(q.queue)+len(batch) > maxQueue {
		return fmt.Errorf("%d %w", len(q.queue), errTooMany)
	}
	carrier := q.carriedFor(by.UID, kill && len(batch) == 1)
	var cost amount
	for _, o := range batch {
		cost = cost.plus(o.cost)
	}
	if carrier != q.carrier {
		cost = cost.plus(carrier.cost)
	}
	if errno := q.budget.take(by.UID, cost); errno != 0 {
		return errno
	}
	// As long as something is under way the state that a command will meet is not known.
	if q.now == nil || ahead {
		if first.begin(q.to); first.err != nil {
			q.budget.give(by.UID, cost)
			return first.err
		}
		renew(batch[1:], epoch, first.epoch)
	}
	if ahead {
		q.overtake(first)
	}
	q.enter(from, len(batch))
	q.queue = append(q.queue, batch...)
	if carrier != q.carrier {
		q.budget.give(q.carrier.uid, q.carrier.cost)
		q.carrier = carrier
	}
	if q.now == nil {
		q.shift()
		go q.carryOut(q.now)
	}
	q.hurry()
	return nil
}

// carriedFor returns who pays for what carries the orders out from here on, when a user
// writes some more. What carries out kills alone costs as they do. mu is held.
func (q *orders) carriedFor(uid uint32, killOnly bool) carrier {
	switch {
	case q.now == nil && killOnly:
		return carrier{uid, amount{bytes: requestBytes}}
	case q.now == nil || !killOnly && q.carrier.cost.bytes > 0:
		return carrier{uid, amount{orders: requestBytes}}
	}
	return q.carrier
}

// enter notes that a process has written so many orders. mu is held.
func (q *orders) enter(from proc, n int) {
	w := q.writers[from]
	if w == nil || w.pending == 0 {
		if q.writers == nil {
			q.writers = map[proc]*writer{}
		}
		// Who had the pid before is there no more.
		for old, w := range q.writers {
			if old.pid == from.pid && old != from && w.pending == 0 {
				delete(q.writers, old)
			}
		}
		if len(q.writers) >= maxFailed {
			q.forget()
		}
		fresh := &writer{idle: make(chan struct{})}
		if w != nil && !w.told {
			fresh.err = w.err // no close has told it yet
		}
		w = fresh
		q.writers[from] = w
	}
	w.pending += n
}

// forget forgets the failures that were told, and those of whom there is nobody left to tell.
// mu is held.
func (q *orders) forget() {
	for from, w := range q.writers {
		if w.told || w.pending == 0 && from.gone() {
			delete(q.writers, from)
		}
	}
}

// begin begins an order.
func (o *order) begin(to target) {
	o.begun = true
	o.work, o.err = to.Do(o.by, o.command)
	if o.command.Verb == runtime.VerbKill {
		o.epoch = to.Kills()
	}
}

// renew gives those that stand behind a kill its epoch.
func renew(behind []*order, old, epoch uint64) {
	if old == epoch {
		return // no kill: else a turn would cost the length of the queue
	}
	for _, o := range behind {
		if o.epoch == old {
			o.epoch = epoch
		}
	}
}

// overtake cancels what stands before a kill that has begun ahead of it. mu is held.
func (q *orders) overtake(kill *order) {
	q.now.cut = q.now.cut || q.now.from == kill.from
	left := q.queue[:0]
	for _, o := range q.queue {
		if o.begun {
			left = append(left, o) // another kill
			continue
		}
		o.cut = o.from == kill.from
		q.leave(o, errOvertaken)
	}
	clear(q.queue[len(left):])
	q.queue = left
}

// hurry begins a kill that stands behind a stop which is under way. mu is held.
func (q *orders) hurry() {
	if q.now == nil || len(q.queue) == 0 {
		return
	}
	kill := q.queue[0]
	switch q.now.command.Verb {
	case runtime.VerbStop, runtime.VerbRestart:
	default:
		return
	}
	if kill.command.Verb != runtime.VerbKill || kill.begun || !q.now.begun || kill.epoch != q.to.Kills() {
		return
	}
	q.now.cut = q.now.cut || q.now.from == kill.from
	old := kill.epoch
	kill.begin(q.to)
	renew(q.queue[1:], old, kill.epoch)
}

// leave says that an order is over. mu is held.
func (q *orders) leave(o *order, err error) {
	q.budget.give(o.by.UID, o.cost)
	w := q.writers[o.from]
	if err != nil && !o.cut && w.err == nil {
		w.err = err
	}
	if w.pending--; w.pending > 0 {
		return
	}
	close(w.idle)
	if w.err == nil {
		delete(q.writers, o.from)
	}
}

// carryOut carries out one order after the other, until there is none.
func (q *orders) carryOut(o *order) {
	for o != nil {
		q.turn(o)
		err := o.err
		if err == nil {
			err = o.work.Wait(context.Background())
		}
		o = q.next(o, err)
	}
}

// turn begins an order whose turn has come, unless it has begun or must not any more.
func (q *orders) turn(o *order) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old := o.epoch
	switch {
	case o.begun:
	case old != q.to.Kills():
		// Overtaken after the one before it had ended, as those are that still queue.
		o.begun, o.err = true, errOvertaken
		if !o.cut {
			o.err = q.to.RefuseCommand(errOvertaken)
		}
	default:
		o.begin(q.to)
		renew(q.queue, old, o.epoch)
	}
	q.hurry()
}

// next says how the present order has ended and returns the one behind it.
func (q *orders) next(o *order, err error) *order {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leave(o, err)
	if err != nil {
		left := q.queue[:0]
		for _, b := range q.queue {
			if b.begun || b.epoch != o.epoch {
				left = append(left, b)
			} else {
				q.leave(b, err)
			}
		}
		clear(q.queue[len(left):])
		q.queue = left
	}
	if q.shift(); q.now == nil {
		q.budget.give(q.carrier.uid, q.carrier.cost)
		q.carrier = carrier{}
	}
	return q.now
}

// shift makes the first of the queue the present one. mu is held.
func (q *orders) shift() {
	if q.now = nil; len(q.queue) > 0 {
		q.now, q.queue = q.queue[0], q.queue[1:]
	}
}

// all reports whether everything that was written has ended well.
func (q *orders) all() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.writers) == 0
}

// wrote returns what a process has written and was not told to have ended well, or nil.
func (q *orders) wrote(from proc) *writer {
	q.mu.Lock()
	defer q.mu.Unlock()
	var last proc
	for p := range q.writers {
		if p.is(from) && (last.pid == 0 || p.began > last.began) {
			last = p
		}
	}
	return q.writers[last]
}

// tell returns how the orders of a writer have ended, once it is idle.
func (q *orders) tell(w *writer) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.told = true
	return w.err
}
