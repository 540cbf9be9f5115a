package fsapi

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	boxes "github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// layoutOf writes an image and returns its reference.
func layoutOf(t *testing.T, name string, cfg v1.Config) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644}))
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	must(t, err)
	f, err := img.ConfigFile()
	must(t, err)
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", runtime.GOARCH, cfg
	img, err = mutate.ConfigFile(img, f)
	must(t, err)
	dir := filepath.Join(t.TempDir(), name)
	lay, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, lay.AppendImage(img))
	return "oci:" + dir
}

func pulled(t *testing.T, rt *boxes.Runtime, text string) (*image.Image, func()) {
	t.Helper()
	ref, err := image.ParseRef(text)
	must(t, err)
	i, release, err := rt.Images().Ensure(context.Background(), ref, nil)
	must(t, err)
	return i, release
}

func TestImagesAreShownAndRemoved(t *testing.T) {
	_, rt, mnt := notified(t)
	dir := mnt + "/images"
	must(t, run(t, "ls", "-l", dir)) // so that the kernel has it
	ref := layoutOf(t, "some", v1.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=b"}, User: "u", WorkingDir: "/w", StopSignal: "SIGINT", Labels: map[string]string{"k": "v"}})
	events := watch(t, dir)
	img, release := pulled(t, rt, ref)
	see(t, events, dir+"/ MODIFY,ISDIR")
	if names := client(t, "ls", dir); names != "ctl\nlast_error\n"+img.Name+"\n" || !strings.HasPrefix(img.Name, "some@") {
		t.Errorf("images/ has %q", names)
	}
	if got := client(t, "stat", "-c", "%a %h %F", dir, dir+"/"+img.Name, dir+"/"+img.Name+"/info.json"); got != "755 3 directory\n755 2 directory\n444 1 regular file\n" {
		t.Errorf("stat says %q", got)
	}
	text := client(t, "cat", dir+"/"+img.Name+"/info.json")
	if size(t, dir+"/"+img.Name+"/info.json") != strconv.Itoa(len(text)) || !strings.HasSuffix(text, "}\n") {
		t.Errorf("%q", text)
	}
	var info map[string]any
	must(t, json.Unmarshal([]byte(text), &info))
	delete(info, "pulled")
	want := map[string]any{
		"name": img.Name, "digest": img.Digest, "refs": []any{ref}, "size": 0.0, "layers": 1.0, "created": nil, "entrypoint": []any{"/e"}, "cmd": []any{"c"},
		"env": []any{"A=b"}, "user": "u", "workdir": "/w", "stop_signal": "SIGINT", "labels": map[string]any{"k": "v"}, "used_by": []any{},
	}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("it is %v, and not %v", info, want)
	}

	denied(t, "Operation not permitted", "mkdir", dir+"/new")
	denied(t, "Operation not permitted", "touch", dir+"/new")
	denied(t, "Operation not permitted", "ln", "-s", "x", dir+"/new")
	denied(t, "Operation not permitted", "mkdir", dir+"/"+img.Name+"/new")
	denied(t, "Operation not permitted", "mv", dir+"/"+img.Name, dir+"/other")
	denied(t, "Operation not permitted", "rm", "-rf", dir+"/"+img.Name)
	denied(t, "Operation not permitted", "chmod", "777", dir+"/"+img.Name)
	denied(t, "Permission denied", "sh", "-c", "echo x > "+dir+"/"+img.Name+"/info.json")
	denied(t, "No such file", "rmdir", dir+"/none")
	denied(t, "No such file", "cat", dir+"/none/info.json")
	denied(t, "resource busy", "rmdir", dir+"/"+img.Name)
	if got := client(t, "cat", mnt+"/last_error"); got != "image "+img.Name+" is in use by a box that is being started\n" {
		t.Errorf("last_error is %q", got)
	}
	release()

	// A descriptor outlives the image, and says so.
	denied(t, "cat: -: No such device", "sh", "-c", `exec 3<"$1/info.json" && rmdir "$1" && cat <&3`, "sh", dir+"/"+img.Name)
	see(t, events, dir+"/ DELETE,ISDIR "+img.Name)
	if names := client(t, "ls", dir); names != "ctl\nlast_error\n" {
		t.Errorf("images/ has %q", names)
	}
	again, release := pulled(t, rt, ref)
	release()
	if got := client(t, "cat", dir+"/"+again.Name+"/info.json"); !strings.Contains(got, again.Digest) {
		t.Errorf("info.json is %q", got)
	}
}

// denied runs a client that must fail with that text.
func denied(t *testing.T, text string, argv ...string) {
	t.Helper()
	if err := run(t, argv...); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%v: %v", argv, err)
	}
}

// client returns what a client says that must succeed.
func client(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return string(out)
}
