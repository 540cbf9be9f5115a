package image

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestAFlightThatWasGivenUpEndsBeforeTheNextBegins(t *testing.T) {
	var f flights[int]
	var going, begun atomic.Int32
	finish := make(chan struct{})
	fn := func(ctx context.Context) (int, error) {
		if going.Add(1) != 1 {
			t.Error("two are under way")
		}
		defer going.Add(-1)
		n := begun.Add(1)
		if n == 1 {
			<-ctx.Done()
			<-finish
			return 0, ctx.Err()
		}
		return int(n), nil
	}
	ctx, leave := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		_, _, err := f.do(ctx, context.Background(), "k", fn)
		left <- err
	}()
	await(t, func() bool { return begun.Load() == 1 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Also who waits for that may leave.
	if _, _, err := f.do(ctx, context.Background(), "k", fn); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	type result struct {
		n   int
		err error
	}
	next := make(chan result, 1)
	go func() {
		n, _, err := f.do(context.Background(), context.Background(), "k", fn)
		next <- result{n, err}
	}()
	close(finish)
	if r := <-next; r.err != nil || r.n != 2 {
		t.Errorf("%+v", r)
	}
	f.work.Wait()
}
