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

// orderBytes is what a command costs its user until it has ended. An open through which any
// is under way costs requestBytes more.
//
// A kill that a write begins with costs what a request does, and not what a command that
// waits does: it begins at once and ends within runtime.KillBound. So a user whose commands
// fill his share can end them. What stands behind it in the write waits like any other.
const orderBytes = 512

// maxFailed is how many failed processes that share an open are remembered once they were
// told.
const maxFailed = 64

var (
	errTooMany   = errors.New("commands wait already")
	errOvertaken = fmt.Errorf("%w: a kill that was given later wins", runtime.ErrCanceled)
)

// target is what takes commands: a box, an exec or the image store.
type target interface {
	// verbs are the commands it knows, for a message.
	verbs() string
	parse(words []string) (runtime.Command, error)
	Do(by runtime.By, c runtime.Command) (*runtime.Completion, error)
	// Kills is how many kills it has taken.
	Kills() uint64
	RefuseCommand(err error) error
}

// orders are the commands that are written through one open. They are carried out in order.
// A command behind one that failed is not begun: it was written in the belief that the first
// would work.
//
// A kill is different. A command that was written before the kill and has not begun is not
// carried out any more. One that is written after the kill is, however the earlier ones have
// ended. A kill that is written by itself begins at once. One that is written behind a stop
// begins with the stop, and does not wait for its grace.
//
// A command that was accepted is carried out, also when the open is closed or its writer has
// ended. So each counts against its user's budget until it has ended, and not until the open
// is closed. Else a user who opens, writes and closes again and again could have any number
// of them wait.
type orders struct {
	to     target
	budget *budget

	mu      sync.Mutex // guards what follows; commands are given to the target, and the budget is charged, under it
	payer   payer      // for the goroutine that carries them out, while there is one
	now     *order     // under way; nil if nothing is
	queue   []*order   // behind it
	writers map[proc]*writer
}

// order is one command.
type order struct {
	by      runtime.By
	from    proc
	command runtime.Command
	// epoch is how many kills the target had taken when the order was written; of a kill,
	// with itself. Once the target has taken more, the order is not begun.
	epoch uint64
	cost  amount // what its user is charged until it has ended
	begun bool
	work  *runtime.Completion // of what has begun
	err   error               // why it could not begin
	// cut: a kill by the same process has overtaken it, so that its end is no failure.
	cut bool
}

// writer is a process that has written through the open. Its close waits for what it has
// written itself.
type writer struct {
	pending  int           // orders that have not ended
	idle     chan struct{} // closed when none is
	err      error         // of the first that failed; valid then
	reported bool
}

// payer is who pays for the goroutine that carries orders out, and how much.
type payer struct {
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
	payer := q.payerAfter(by.UID, kill && len(batch) == 1)
	var cost amount
	for _, o := range batch {
		cost = cost.plus(o.cost)
	}
	if payer != q.payer {
		cost = cost.plus(payer.cost)
	}
	if errno := q.budget.take(by.UID, cost); errno != 0 {
		return errno
	}
	// While a command is under way, the state in which the next will begin is not known.
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
	if payer != q.payer {
		q.budget.give(q.payer.uid, q.payer.cost)
		q.payer = payer
	}
	if q.now == nil {
		q.shift()
		go q.carryOut(q.now)
	}
	q.hurry()
	return nil
}

// payerAfter returns who pays for the goroutine from here on, when a user writes some more.
// A goroutine that carries out kills alone costs what they do. mu is held.
func (q *orders) payerAfter(uid uint32, killOnly bool) payer {
	switch {
	case q.now == nil && killOnly:
		return payer{uid, amount{bytes: requestBytes}}
	case q.now == nil || !killOnly && q.payer.cost.bytes > 0:
		return payer{uid, amount{orders: requestBytes}}
	}
	return q.payer
}

// enter notes that a process has written n orders. mu is held.
func (q *orders) enter(from proc, n int) {
	w := q.writers[from]
	if w == nil || w.pending == 0 {
		if q.writers == nil {
			q.writers = map[proc]*writer{}
		}
		// A process that had the pid before has ended.
		for old, w := range q.writers {
			if old.pid == from.pid && old != from && w.pending == 0 {
				delete(q.writers, old)
			}
		}
		if len(q.writers) >= maxFailed {
			q.forget()
		}
		fresh := &writer{idle: make(chan struct{})}
		if w != nil && !w.reported {
			fresh.err = w.err // no close has returned it yet
		}
		w = fresh
		q.writers[from] = w
	}
	w.pending += n
}

// forget forgets the failures that a close has returned, and those of processes that have
// ended. mu is held.
func (q *orders) forget() {
	for from, w := range q.writers {
		if w.reported || w.pending == 0 && from.ended() {
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

// renew gives the orders behind a kill its epoch.
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

// overtake cancels the orders before a kill that has begun ahead of them. mu is held.
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

// hurry begins a kill that is next behind a stop which is under way. mu is held.
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

// leave notes that an order has ended. mu is held.
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

// carryOut carries out one order after the other, until none is left.
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
		// A kill has overtaken it after the order before it had ended.
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

// next notes how the present order has ended and returns the one behind it.
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
		q.budget.give(q.payer.uid, q.payer.cost)
		q.payer = payer{}
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

// wrote returns the writer for a process; nil if it has written nothing, or all has ended
// well.
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

// report returns how the orders of a writer have ended, once it is idle.
func (q *orders) report(w *writer) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.reported = true
	return w.err
}
