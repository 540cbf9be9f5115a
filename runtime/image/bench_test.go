package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
)

// BenchmarkUnpack says what the process costs that each layer is unpacked by: here is the
// same work done by it, and in this process.
func BenchmarkUnpack(b *testing.B) {
	var many []entry
	for n := range 2000 {
		many = append(many, file(fmt.Sprintf("f%d", n), strings.Repeat("x", 4000)))
	}
	for _, c := range []struct {
		name  string
		layer []byte
	}{{"empty", zipped(b, tarOf(b))}, {"2000 files", zipped(b, tarOf(b, many...))}, {"64 MiB", zipped(b, tarOf(b, file("a", noise(64<<20))))}} {
		plain, err := decompress(bytes.NewReader(c.layer))
		if err != nil {
			b.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, plain); err != nil {
			b.Fatal(err)
		}
		path := filepath.Join(b.TempDir(), "layer")
		if err := os.WriteFile(path, c.layer, 0o600); err != nil {
			b.Fatal(err)
		}
		each := func(b *testing.B, fn func(dir string, in *os.File) error) {
			for n := 0; b.Loop(); n++ {
				dir := filepath.Join(b.TempDir(), fmt.Sprint(n))
				in, err := os.Open(path)
				if err == nil {
					err = os.Mkdir(dir, 0o700)
				}
				if err == nil {
					err = fn(dir, in)
				}
				_ = in.Close()
				b.StopTimer()
				if rerr := os.RemoveAll(dir); err == nil {
					err = rerr
				}
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		}
		b.Run(c.name+"/process", func(b *testing.B) {
			each(b, func(dir string, in *os.File) error {
				_, err := unpack(context.Background(), in, order{Dir: dir, DiffID: hex.EncodeToString(h.Sum(nil)), Limits: defaultLimits})
				return err
			})
		})
		b.Run(c.name+"/inline", func(b *testing.B) {
			each(b, func(dir string, in *os.File) error {
				plain, err := decompress(in)
				if err != nil {
					return err
				}
				_, err = archive.Apply(context.Background(), dir, io.TeeReader(plain, sha256.New()))
				return err
			})
		})
	}
}
