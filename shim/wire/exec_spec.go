package wire

import (
	"strings"
	"unsafe"
)

// ExecSpec is what a shim needs to run a command in its box. All that it does not say
// is as with the box's own command: namespaces, cgroups, limits, no_new_privs.
type ExecSpec struct {
	// Argv is the command and its arguments. Argv[0] is looked up in the PATH of Env
	// when it has no slash, as the user.
	Argv []string
	// Env is the whole environment, as KEY=VALUE.
	Env []string
	// Workdir is the absolute directory that the command starts in.
	Workdir string
	// UID, GID and Groups are the credentials.
	UID, GID uint32
	Groups   []uint32
	// Capabilities and CapAmbient are as in Spec.
	Capabilities, CapAmbient uint64
	// TimeoutNs is how long the command may run, in nanoseconds, before all that is
	// left of its process group is killed; 0 is for ever.
	TimeoutNs int64
	// TTY gives the command a terminal of 80x24 as stdin, stdout and stderr.
	TTY bool
	// Process is, in a container, what the OCI runtime is to start, as its JSON. Of
	// the rest only TimeoutNs, TTY, and UID and GID count, which are the host's.
	Process []byte
}

// The size of the terminal of an exec.
const (
	TTYRows = 24
	TTYCols = 80
)

// execSpecVersion is the first byte of an encoded ExecSpec. It goes from one version
// of the daemon to the shim of another.
const execSpecVersion = 1

// Append appends the spec as the shim reads it: lists and strings as everywhere, but
// that each string has a NUL at its end, so that it can be used where it lies.
func (x *ExecSpec) Append(b []byte) []byte {
	str := func(s string) {
		b = appendU32(b, uint32(len(s)+1))
		b = append(append(b, s...), 0)
	}
	list := func(l []string) {
		b = appendU32(b, uint32(len(l)))
		for _, s := range l {
			str(s)
		}
	}
	b = append(b, execSpecVersion)
	list(Candidates(x.Env, x.Argv[0]))
	list(x.Argv)
	list(x.Env)
	str(x.Workdir)
	b = appendU32(appendU32(b, x.UID), x.GID)
	b = appendU32(b, uint32(len(x.Groups)))
	for _, g := range x.Groups {
		b = appendU32(b, g)
	}
	b = appendU64(appendU64(b, x.Capabilities), x.CapAmbient)
	b = appendI64(b, x.TimeoutNs)
	b = appendBool(b, x.TTY)
	return appendString(b, string(x.Process))
}

// ExecOrder is an ExecSpec as it was read: all of it points into the encoded one.
type ExecOrder struct {
	// Paths are the files to execute, of which the first that is there is taken.
	Paths []*byte
	// Argv and Envv have a nil at their end.
	Argv, Envv []*byte
	Dir        *byte
	UID, GID   uint32
	// Groups is the first of NGroups, or nil.
	Groups                   *uint32
	NGroups                  int
	Capabilities, CapAmbient uint64
	TimeoutNs                int64
	TTY                      bool
	Process                  []byte
}

// ExecPointers is how many pointers an ExecOrder may have that is encoded in so many bytes:
// each string takes five at least.
func ExecPointers(size int) int { return size/5 + 4 }

// orderDecoder decodes an ExecSpec where it lies.
type orderDecoder struct {
	decoder
	table []*byte // room for pointers
}

// DecodeExecOrder decodes an ExecSpec without allocating: table has the room for the
// pointers of its lists, ExecPointers of them. The order is good as long as both stay as
// they are.
func DecodeExecOrder(text []byte, table []*byte) (o ExecOrder, ok bool) {
	d := orderDecoder{decoder: decoder{buf: text}, table: table}
	if d.u8() != execSpecVersion {
		return o, false
	}
	o.Paths = d.list(false)
	o.Argv = d.list(true)
	o.Envv = d.list(true)
	o.Dir = d.cstring()
	o.UID, o.GID = d.u32(), d.u32()
	o.NGroups = d.length(4)
	if b := d.take(4 * o.NGroups); len(b) > 0 {
		o.Groups = (*uint32)(unsafe.Pointer(unsafe.SliceData(b)))
	}
	o.Capabilities, o.CapAmbient = d.u64(), d.u64()
	o.TimeoutNs = d.i64()
	o.TTY = d.bool()
	o.Process = d.take(d.length(1))
	return o, d.end() == nil && len(o.Paths) > 0 && len(o.Argv) > 1 && *o.Dir == '/' && o.TimeoutNs >= 0
}

// cstring takes a string that ends with a NUL, the only one in it.
func (d *orderDecoder) cstring() *byte {
	b := d.take(d.length(1))
	if len(b) == 0 || b[len(b)-1] != 0 || strings.IndexByte(unsafe.String(unsafe.SliceData(b), len(b)), 0) != len(b)-1 {
		d.bad = true
		return new(byte)
	}
	return unsafe.SliceData(b)
}

// list takes a list of strings, with a nil at the end if it is to be terminated.
func (d *orderDecoder) list(terminated bool) []*byte {
	n := d.length(5)
	room := n
	if terminated {
		room++
	}
	if room > len(d.table) {
		d.bad = true
		return nil
	}
	list := d.table[:room]
	d.table = d.table[room:]
	for i := range n {
		list[i] = d.cstring()
		if d.bad {
			return nil
		}
	}
	return list
}
