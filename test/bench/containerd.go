package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// containers are containerd shims with a container each. They share one read-only root.
type containers struct {
	program   string
	namespace string
	dir       string
	made      []string // directories of containerd's own that were not there before, innermost first
	all       []*container
}

type container struct {
	id     string
	pid    int // of the shim
	socket string
	log    *os.File
	conn   *ttrpc
}

// shimState is where the shim and runc keep their state, whatever containerd is told.
const shimState = "/run/containerd"

func newContainers(b *bench, program string) (*containers, error) {
	c := &containers{
		program:   program,
		namespace: benchGroup(),
		dir:       filepath.Join(b.dir, "containers"),
	}
	for _, dir := range []string{shimState, shimState + "/s", shimState + "/runc"} {
		err := os.Mkdir(dir, 0o711)
		if err == nil {
			c.made = append([]string{dir}, c.made...)
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root := filepath.Join(c.dir, "root")
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return c, os.Link(b.bin("pause"), filepath.Join(root, "pause"))
}

// config is the least that runc starts a container from.
func (c *containers) config(id string) ([]byte, error) {
	type m = map[string]any
	var namespaces []m
	for _, kind := range []string{"pid", "mount", "ipc", "uts"} {
		namespaces = append(namespaces, m{"type": kind})
	}
	return json.Marshal(m{
		"ociVersion": "1.0.2",
		"process": m{
			"user": m{"uid": 0, "gid": 0}, "cwd": "/", "args": []string{"/pause"},
			"env": []string{"PATH=/"}, "noNewPrivileges": true,
		},
		"root":     m{"path": filepath.Join(c.dir, "root"), "readonly": true},
		"hostname": id,
		"mounts": []m{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		},
		"linux": m{"namespaces": namespaces, "cgroupsPath": "/" + c.namespace + "/" + id},
	})
}

// start brings up one shim and, in it, one container.
func (c *containers) start(ctx context.Context, i int) error {
	id := fmt.Sprintf("c%d", i)
	bundle := filepath.Join(c.dir, id)
	if err := os.Mkdir(bundle, 0o711); err != nil {
		return err
	}
	config, err := c.config(id)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		return err
	}
	// The shim waits for somebody to read its log.
	fifo := filepath.Join(bundle, "log")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return err
	}
	one := &container{id: id}
	if one.log, err = os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	c.all = append(c.all, one)

	cmd := exec.CommandContext(ctx, c.program, "-namespace", c.namespace, "-id", id,
		"-address", filepath.Join(c.dir, "no-containerd.sock"), "-publish-binary", "true", "start")
	cmd.Dir = bundle
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	if one.socket, err = shimSocket(out); err != nil {
		return err
	}
	if one.conn, err = dialTTRPC(one.socket); err != nil {
		return err
	}
	answer, err := one.conn.call("Connect", protoString(nil, 1, id))
	if err != nil {
		return err
	}
	pid, err := protoVarint(answer, 1)
	if err != nil {
		return err
	}
	one.pid = int(pid)
	// CreateTaskRequest: id, bundle. StartRequest: id.
	if _, err := one.conn.call("Create", protoString(protoString(nil, 1, id), 2, bundle)); err != nil {
		return err
	}
	if _, err := one.conn.call("Start", protoString(nil, 1, id)); err != nil {
		return err
	}
	return awaitTree(ctx, one.pid, "pause", 1)
}

func (c *containers) pids() []int {
	pids := make([]int, len(c.all))
	for i, one := range c.all {
		pids[i] = one.pid
	}
	return pids
}

// stop ends the containers and their shims, and removes what they leave in containerd's places.
func (c *containers) stop() error {
	var errs []error
	for _, one := range c.all {
		errs = append(errs, one.stop())
	}
	errs = append(errs, os.RemoveAll(filepath.Join(shimState, "runc", c.namespace)))
	errs = append(errs, removeGroups(c.namespace))
	for _, dir := range c.made {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

func (one *container) stop() error {
	defer one.log.Close() // it is not read
	if one.conn == nil {
		return nil
	}
	defer one.conn.Close() // the shim closes it too
	id := protoString(nil, 1, one.id)
	// KillRequest: id, signal, all. WaitRequest and DeleteRequest: id. ShutdownRequest: id, now.
	for _, step := range []struct {
		method  string
		request []byte
	}{
		{"Kill", protoUint(protoUint(id, 3, uint64(unix.SIGKILL)), 4, 1)},
		{"Wait", id},
		{"Delete", id},
	} {
		if _, err := one.conn.call(step.method, step.request); err != nil {
			return fmt.Errorf("container %s: %s: %w", one.id, step.method, err)
		}
	}
	// The shim may be gone before it has answered.
	if _, err := one.conn.call("Shutdown", protoUint(id, 2, 1)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("container %s: Shutdown: %w", one.id, err)
	}
	// It is a child of the bench since the process that started it has ended.
	if err := reap(one.pid, 5*time.Second); err != nil {
		return fmt.Errorf("container %s: %w", one.id, err)
	}
	if err := os.Remove(one.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reap waits for the end of a child.
func reap(pid int, bound time.Duration) error {
	return await(context.Background(), bound, func() (bool, error) {
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		return got == pid, err
	}, "the end of process %d", pid)
}

// shimSocket reads what a shim's start prints: an address, or from version 2 on a JSON object.
func shimSocket(out []byte) (string, error) {
	address := strings.TrimSpace(string(out))
	if strings.HasPrefix(address, "{") {
		var answer struct {
			Address string `json:"address"`
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return "", err
		}
		address = answer.Address
	}
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		return "", fmt.Errorf("the shim's address is %q", address)
	}
	return path, nil
}

// A ttrpc is a connection to a shim: one request at a time, in as much of ttrpc as that needs.
type ttrpc struct {
	net.Conn
	in     *bufio.Reader
	stream uint32
}

const (
	ttrpcService  = "containerd.task.v2.Task"
	ttrpcRequest  = 1
	ttrpcResponse = 2
	ttrpcTimeout  = 30 * time.Second
)

func dialTTRPC(socket string) (*ttrpc, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return &ttrpc{Conn: conn, in: bufio.NewReader(conn), stream: 1}, nil
}

// call sends a request and returns the payload of its response.
func (c *ttrpc) call(method string, payload []byte) ([]byte, error) {
	request := protoString(nil, 1, ttrpcService)
	request = protoString(request, 2, method)
	request = protoString(request, 3, string(payload))
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(request)))
	frame = binary.BigEndian.AppendUint32(frame, c.stream)
	frame = append(frame, ttrpcRequest, 0)
	c.stream += 2
	if err := c.SetDeadline(time.Now().Add(ttrpcTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.Write(append(frame, request...)); err != nil {
		return nil, err
	}
	var header [10]byte
	if _, err := io.ReadFull(c.in, header[:]); err != nil {
		return nil, err
	}
	if header[8] != ttrpcResponse {
		return nil, fmt.Errorf("%s: a ttrpc message of type %d", method, header[8])
	}
	answer := make([]byte, binary.BigEndian.Uint32(header[:]))
	if _, err := io.ReadFull(c.in, answer); err != nil {
		return nil, err
	}
	// Response: status (code, message), payload.
	status, err := protoBytes(answer, 1)
	if err != nil {
		return nil, err
	}
	if code, err := protoVarint(status, 1); err != nil {
		return nil, err
	} else if code != 0 {
		message, err := protoBytes(status, 2)
		return nil, errors.Join(fmt.Errorf("%s: code %d: %s", method, code, message), err)
	}
	return protoBytes(answer, 2)
}

// The wire types of protocol buffers that occur here.
const (
	wireVarint = 0
	wireBytes  = 2
)

func protoString(message []byte, field int, text string) []byte {
	message = binary.AppendUvarint(clip(message), uint64(field)<<3|wireBytes)
	message = binary.AppendUvarint(message, uint64(len(text)))
	return append(message, text...)
}

func protoUint(message []byte, field int, n uint64) []byte {
	message = binary.AppendUvarint(clip(message), uint64(field)<<3|wireVarint)
	return binary.AppendUvarint(message, n)
}

// clip makes an append to a message leave others with the same beginning alone.
func clip(message []byte) []byte {
	return message[:len(message):len(message)]
}

var errProto = errors.New("a protobuf message that cannot be read")

// protoVarint returns a number of a message, 0 if it is absent.
func protoVarint(message []byte, field int) (uint64, error) {
	n, _, err := protoField(message, field, wireVarint)
	return n, err
}

// protoBytes returns a string or message of a message, nil if it is absent.
func protoBytes(message []byte, field int) ([]byte, error) {
	_, value, err := protoField(message, field, wireBytes)
	return value, err
}

func protoField(message []byte, field int, wire uint64) (uint64, []byte, error) {
	for len(message) > 0 {
		key, size := binary.Uvarint(message)
		if size <= 0 {
			return 0, nil, errProto
		}
		message = message[size:]
		n, size := binary.Uvarint(message)
		if size <= 0 {
			return 0, nil, errProto
		}
		message = message[size:]
		var value []byte
		switch key & 7 {
		case wireVarint:
		case wireBytes:
			if n > uint64(len(message)) {
				return 0, nil, errProto
			}
			value, message = message[:n], message[n:]
		default:
			return 0, nil, errProto
		}
		if key>>3 == uint64(field) && key&7 == wire {
			return n, value, nil
		}
	}
	return 0, nil, nil
}
