package image

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRegistryConfig(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "",
		`{"auths": {"r.example": {"auth": "dTpw"}, "https://index.docker.io/v1/": {"username": "u", "password": "secret"}}, "insecure-registries": ["10.0.0.1:5000"]}`: "",
		``:                       "ends too early",
		"{\n\"auths\": {,}}":     "no JSON at line 2",
		`{} x`:                   "something follows",
		`{"credsStore": "x"}`:    `unknown field "credsStore"`,
		`{"auths": {"a.b": {}}}`: "has no auth",
		`{"auths": {"a.b": {"auth": "c2VjcmV0"}}}`:                                 "not the base64",
		`{"auths": {"a.b": {"auth": "secret!"}}}`:                                  "not the base64",
		`{"auths": {"/": {"auth": "dTpw"}}}`:                                       "HOST or HOST:PORT",
		`{"auths": {"a.b": {"auth": "dTpw", "secret": true}}}`:                     "unknown field",
		`{"auths": {"a.b": {"auth": "dTpw"}, "https://a.b/v2": {"auth": "dTpw"}}}`: "twice",
		`{"insecure-registries": ["http://a.b/"]}`:                                 "HOST or HOST:PORT",
		`{"insecure-registries": "a.b"}`:                                           "cannot unmarshal",
		strings.Repeat(" ", 2<<20):                                                 "more than",
	} {
		err := CheckRegistryConfig(writeConfig(t, text))
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.100s: %v", text, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret!") || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%.100s: %v", text, err)
		}
	}
	if err := CheckRegistryConfig("/nowhere"); !errors.Is(err, ErrConfig) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := CheckRegistryConfig("/dev/zero"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "no regular file") {
		t.Error(err)
	}
	c, err := loadRegistryConfig(writeConfig(t, `{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}, "insecure-registries": ["10.0.0.1:5000"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.auth("index.docker.io").Authorization(); err != nil || got.Username != "u" || got.Password != "p" {
		t.Errorf("%+v %v", got, err)
	}
	if c.auth("other.example") != authn.Anonymous {
		t.Error("another registry gets credentials")
	}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:1": true, "127.0.0.1:5000": true, "127.9.9.9": true, "[::1]:5": true, "[::1]": true, "10.0.0.1:5000": true, "10.0.0.1": false,
		"10.0.0.1:5001": false, "192.168.1.1:5000": false, "r.local": false, "127.0.0.1.example": false, "localhost.example:1": false, "r.example": false,
	} {
		if c.plain(host) != want {
			t.Errorf("plain HTTP to %s: %v", host, !want)
		}
	}
}

func TestCredentialsAreReadAtEachPull(t *testing.T) {
	srv := serve(t)
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a"))))
	password := "old"
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if _, got, ok := r.BasicAuth(); !ok || got != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	path := writeConfig(t, `{}`)
	s := open(t, t.TempDir(), Options{RegistryConfig: path})
	if err := refuse(t, s, ref); !strings.Contains(err.Error(), "--registry-config") {
		t.Error(err)
	}
	write := func(password string) {
		if err := os.WriteFile(path, []byte(`{"auths": {"`+srv.host+`": {"username": "u", "password": "`+password+`"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	img := ensure(t, s, ref)
	if err := s.Remove(img.Name, nil); err != nil {
		t.Fatal(err)
	}
	password = "new"
	if err := refuse(t, s, ref); strings.Contains(err.Error(), "old") {
		t.Error(err)
	}
	write("new")
	ensure(t, s, ref)
	if err := os.WriteFile(path, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refuse(t, s, parse(t, "docker://"+srv.host+"/other")); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

func TestPlainHTTPIsForLoopbackAndTheListed(t *testing.T) {
	srv := serve(t)
	srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a"))))
	through := func(s *Store) {
		s.transport = redirected{srv.host, newTransport()}
	}
	for _, host := range []string{"10.1.2.3:5000", "r.local:5000", "r.example"} {
		s := open(t, t.TempDir(), Options{})
		through(s)
		if err := refuse(t, s, parse(t, "docker://"+host+"/a:1")); !strings.Contains(err.Error(), "insecure-registries") {
			t.Errorf("%s: %v", host, err)
		}
		s = open(t, t.TempDir(), Options{RegistryConfig: writeConfig(t, `{"insecure-registries": ["`+host+`"]}`)})
		through(s)
		ensure(t, s, parse(t, "docker://"+host+"/a:1"))
	}
}

// redirected sends plain requests to one host, and fails those with TLS.
type redirected struct {
	host string
	http.RoundTripper
}

func (r redirected) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		return nil, http.ErrSchemeMismatch
	}
	req = req.Clone(req.Context())
	req.URL.Host = r.host
	return r.RoundTripper.RoundTrip(req)
}

func TestARegistryCannotSendUsInside(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a"))))
	hit := make(chan string, 10)
	other := serve(t)
	other.on(func(_ http.ResponseWriter, r *http.Request) bool { hit <- r.URL.Path; return false })
	for _, to := range []string{"http://127.0.0.2:" + other.host[strings.LastIndexByte(other.host, ':')+1:], "http://localhost:1", "http://r.example", "https://10.0.0.1"} {
		srv.on(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, to+"/secret", http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
		if err := refuse(t, s, ref); !strings.Contains(err.Error(), "not allowed") && !strings.Contains(err.Error(), "insecure-registries") {
			t.Errorf("%s: %v", to, err)
		}
	}
	// Nor for a token.
	srv.on(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://127.0.0.2:`+other.host[strings.LastIndexByte(other.host, ':')+1:]+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if err := refuse(t, s, ref); !strings.Contains(err.Error(), "private or link-local") {
		t.Error(err)
	}
	if len(hit) > 0 {
		t.Errorf("%s was asked for", <-hit)
	}
}
