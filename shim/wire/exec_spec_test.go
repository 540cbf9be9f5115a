package wire

import (
	"testing"
	"unsafe"
)

// textOf returns a string of an order.
func textOf(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return unsafe.String(p, n)
}

func TestExecOrderIsRefused(t *testing.T) {
	good := ExecSpec{Argv: []string{"/a"}, Env: []string{"A=b"}, Workdir: "/", Groups: []uint32{1}}
	whole := good.Append(nil)
	load := func(b []byte) bool {
		_, ok := DecodeExecOrder(b, make([]*byte, ExecPointers(len(b))))
		return ok
	}
	if !load(whole) {
		t.Fatal("a good one is refused")
	}
	for n := 1; n < len(whole); n++ {
		if load(whole[:n]) {
			t.Errorf("an order cut to %d of %d bytes was accepted", n, len(whole))
		}
	}
	if load(append(whole[:len(whole):len(whole)], 0)) {
		t.Error("a byte too many was accepted")
	}
	for name, spoil := range map[string]func(x *ExecSpec){
		"relative dir":     func(x *ExecSpec) { x.Workdir = "a" },
		"no dir":           func(x *ExecSpec) { x.Workdir = "" },
		"NUL":              func(x *ExecSpec) { x.Env = []string{"A=\x00b"} },
		"negative timeout": func(x *ExecSpec) { x.TimeoutNs = -1 },
	} {
		x := good
		spoil(&x)
		if load(x.Append(nil)) {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzExecOrder(f *testing.F) {
	x := ExecSpec{Argv: []string{"sh", "-c", "x"}, Env: []string{"PATH=/bin:/usr/bin", "A="}, Workdir: "/srv", UID: 1, GID: 2, Groups: []uint32{3}, Capabilities: 5, CapAmbient: 1, TimeoutNs: 1, TTY: true}
	f.Add(x.Append(nil))
	x = ExecSpec{Argv: []string{"/a"}, Workdir: "/"}
	f.Add(x.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > MaxSpec {
			return
		}
		o, ok := DecodeExecOrder(b, make([]*byte, ExecPointers(len(b))))
		if !ok {
			return
		}
		if o.Argv[len(o.Argv)-1] != nil || o.Envv[len(o.Envv)-1] != nil {
			t.Error("a list has no end")
		}
		for _, p := range append(append([]*byte{o.Dir}, o.Paths...), o.Argv[:len(o.Argv)-1]...) {
			_ = textOf(p)
		}
		for _, p := range o.Envv[:len(o.Envv)-1] {
			_ = textOf(p)
		}
	})
}
