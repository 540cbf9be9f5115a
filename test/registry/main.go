// Command registry is what the tests pull images from: a registry on loopback, and the
// making of images from directories and tars.
//
//	registry serve -listen 127.0.0.1:0            prints its address, and a line a request
//	registry push  TARGET SOURCE… [flags]          makes an image and writes it
//	registry index TARGET OS/ARCH=SOURCE…          an index of images of one layer each
//
// A TARGET is REGISTRY/REPOSITORY:TAG, oci:/DIR:TAG or docker-archive:/FILE; a SOURCE is a
// directory or a tar, and becomes a layer. What it prints is the digest.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("serve, push or index")
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "push":
		return push(args[1:])
	case "index":
		return index(args[1:])
	}
	return fmt.Errorf("%s: serve, push or index", args[0])
}

// serve serves a registry until it is told to end.
func serve(args []string) error {
	fl := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := fl.String("listen", "127.0.0.1:0", "address and port")
	user := fl.String("user", "", "USER:PASSWORD that everybody must give")
	hang := fl.String("hang", "", "a GET with this in its path is never answered")
	var redirects words
	fl.Var(&redirects, "redirect", "PATH=URL: a GET with this in its path is sent there; may be repeated")
	if err := fl.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	logger := log.New(os.Stdout, "", 0)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logger.Println(r.Method, r.URL.Path)
		if name, password, _ := r.BasicAuth(); *user != "" && name+":"+password != *user {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if *hang != "" && r.Method == http.MethodGet && strings.Contains(r.URL.Path, *hang) {
			<-r.Context().Done()
			return
		}
		for _, redirect := range redirects {
			if part, to, _ := strings.Cut(redirect, "="); r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) {
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
				return
			}
		}
		inner.ServeHTTP(w, r)
	})}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return srv.Close()
	}
}

// words is a flag that may be given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, " ") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

func push(args []string) error {
	fl := flag.NewFlagSet("push", flag.ContinueOnError)
	var cfg v1.Config
	var entrypoint, cmd, env, labels words
	fl.Var(&entrypoint, "entrypoint", "a word of it; may be repeated")
	fl.Var(&cmd, "cmd", "a word of it; may be repeated")
	fl.Var(&env, "env", "NAME=VALUE; may be repeated")
	fl.Var(&labels, "label", "NAME=VALUE; may be repeated")
	fl.StringVar(&cfg.User, "user", "", "user[:group]")
	fl.StringVar(&cfg.WorkingDir, "workdir", "", "absolute directory")
	fl.StringVar(&cfg.StopSignal, "stop-signal", "", "signal")
	arch := fl.String("arch", runtime.GOARCH, "architecture")
	compression := fl.String("compression", "gzip", "of the layers: gzip or none")
	var places []string
	for len(args) > 0 { // flags may come anywhere
		if err := fl.Parse(args); err != nil {
			return err
		}
		if args = fl.Args(); len(args) > 0 {
			places, args = append(places, args[0]), args[1:]
		}
	}
	if len(places) < 1 {
		return errors.New("push TARGET SOURCE…")
	}
	cfg.Entrypoint, cfg.Cmd, cfg.Env = entrypoint, cmd, env
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		if cfg.Labels == nil {
			cfg.Labels = map[string]string{}
		}
		cfg.Labels[k] = v
	}
	img, err := build(places[1:], *arch, *compression, cfg)
	if err != nil {
		return err
	}
	return write(places[0], img)
}

func build(sources []string, arch, compression string, cfg v1.Config) (v1.Image, error) {
	img := empty.Image
	for _, source := range sources {
		text, err := layerTar(source)
		if err != nil {
			return nil, err
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
		var l v1.Layer
		if compression == "none" {
			l, err = tarball.LayerFromOpener(open, tarball.WithCompressionLevel(0), tarball.WithMediaType(types.OCIUncompressedLayer))
		} else {
			l, err = tarball.LayerFromOpener(open)
		}
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config, f.Created = "linux", arch, cfg, v1.Time{Time: time.Unix(0, 0)}
	return mutate.ConfigFile(img, f)
}

// layerTar gives a source as a tar. tar(1) does it: it knows of everything that a
// directory can hold.
func layerTar(source string) ([]byte, error) {
	fi, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return os.ReadFile(source)
	}
	cmd := exec.Command("tar", "--numeric-owner", "--sort=name", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*", "-C", source, "-c", ".")
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

func index(args []string) error {
	if len(args) < 2 {
		return errors.New("index TARGET OS/ARCH=SOURCE…")
	}
	var idx v1.ImageIndex = empty.Index
	for _, arg := range args[1:] {
		platform, source, _ := strings.Cut(arg, "=")
		system, arch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("%s: must be OS/ARCH=SOURCE", arg)
		}
		img, err := build([]string{source}, arch, "gzip", v1.Config{})
		if err != nil {
			return err
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: arch}}})
	}
	ref, err := name.ParseReference(args[0])
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		return err
	}
	return tell(idx)
}

func write(target string, img v1.Image) error {
	var err error
	if path, ok := strings.CutPrefix(target, "oci:"); ok {
		err = writeLayout(path, img)
	} else if path, ok := strings.CutPrefix(target, "docker-archive:"); ok {
		err = tarball.WriteToFile(path, name.MustParseReference("image:latest"), img)
	} else {
		var ref name.Reference
		if ref, err = name.ParseReference(target); err == nil {
			err = remote.Write(ref, img)
		}
	}
	if err != nil {
		return err
	}
	return tell(img)
}

func writeLayout(path string, img v1.Image) error {
	dir, tag := path, ""
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		dir, tag = path[:i], path[i+1:]
	}
	l, err := layout.FromPath(dir)
	if errors.Is(err, os.ErrNotExist) {
		l, err = layout.Write(filepath.Clean(dir), empty.Index)
	}
	if err != nil || tag == "" {
		return errors.Join(err, l.AppendImage(img))
	}
	return l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
}

func tell(what interface{ Digest() (v1.Hash, error) }) error {
	h, err := what.Digest()
	if err == nil {
		fmt.Println(h)
	}
	return err
}
