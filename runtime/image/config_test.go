package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
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
		``:                   "ends too early",
		"{\n\"auths\": {,}}": "no JSON at line 2",
		`{} x`:               "something follows",
		// As docker login writes it.
		`{"auths": {"a.b": {}, "b.c": {"auth": "dTpw", "email": "u@b.c"}}, "credsStore": "desktop", "credHelpers": {"gcr.io": "gcloud"}, "HttpHeaders": {"User-Agent": "Docker"}, "currentContext": "default", "proxies": {"default": {}}}`: "",
		`{"credsStore": "../x"}`:                                                   "no name of a helper",
		`{"credsStore": 1}`:                                                        "cannot unmarshal",
		`{"credHelpers": {"a.b": "x/y"}}`:                                          "no name of a helper",
		`{"credHelpers": {"a b": "x"}}`:                                            "HOST or HOST:PORT",
		`{"auths": {"a.b": {}, "/": {}}}`:                                          "HOST or HOST:PORT",
		`{"auths": {"a.b": {"auth": "c2VjcmV0"}}}`:                                 "not the base64",
		`{"auths": {"a.b": {"auth": "secret!"}}}`:                                  "not the base64",
		`{"auths": {"/": {"auth": "dTpw"}}}`:                                       "HOST or HOST:PORT",
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
	if got, err := authorization(c, "index.docker.io"); err != nil || got.Username != "u" || got.Password != "p" {
		t.Errorf("%+v %v", got, err)
	}
	if a, err := c.auth(t.Context(), "other.example"); a != authn.Anonymous || err != nil {
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

func authorization(c *registryConfig, registry string) (*authn.AuthConfig, error) {
	a, err := c.auth(context.Background(), registry)
	if err != nil {
		return nil, err
	}
	return a.Authorization()
}

// helper puts a credential helper on PATH: a script that has its question in $server.
func helper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\n[ \"$1\" = get ] || exit 2\nread -r server || :\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentialHelpers(t *testing.T) {
	helper(t, "known", `echo "{\"Username\": \"u-$server\", \"Secret\": \"s\"}"`)
	helper(t, "token", `echo '{"Username": "<token>", "Secret": "t"}'`)
	helper(t, "nothing", `echo "credentials not found in native keychain"; exit 1`)
	helper(t, "broken", `echo "the vault is sealed"; exit 1`)
	helper(t, "loud", `exec head -c 3000000 /dev/zero`)
	config := func(text string) *registryConfig {
		c, err := loadRegistryConfig(writeConfig(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const auths = `"auths": {"a.b": {"auth": "dTpw"}}`
	for _, c := range []struct {
		config, registry string
		want             authn.AuthConfig
	}{
		{`{"credsStore": "known", ` + auths + `}`, "a.b", authn.AuthConfig{Username: "u-a.b", Password: "s"}},
		{`{"credHelpers": {"a.b": "known"}, "credsStore": "broken"}`, "a.b", authn.AuthConfig{Username: "u-a.b", Password: "s"}},
		{`{"credHelpers": {"https://a.b/v1/": "token"}}`, "a.b", authn.AuthConfig{IdentityToken: "t"}},
		{`{"credHelpers": {"docker.io": "known"}}`, "index.docker.io", authn.AuthConfig{Username: "u-https://index.docker.io/v1/", Password: "s"}},
		{`{"credsStore": "nothing", ` + auths + `}`, "a.b", authn.AuthConfig{Username: "u", Password: "p"}},
		{`{"credsStore": "nothing"}`, "a.b", authn.AuthConfig{}},
		{`{"credHelpers": {"b.c": "broken"}, ` + auths + `}`, "a.b", authn.AuthConfig{Username: "u", Password: "p"}},
	} {
		got, err := authorization(config(c.config), c.registry)
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
		} else if got.Username != c.want.Username || got.Password != c.want.Password || got.IdentityToken != c.want.IdentityToken {
			t.Errorf("%s: %+v", c.config, got)
		}
	}
	for helper, want := range map[string]string{"broken": "the vault is sealed", "absent": "not found in $PATH", "loud": "docker-credential-loud gives no credentials for a.b"} {
		_, err := authorization(config(`{"credsStore": "`+helper+`"}`), "a.b")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", helper, err)
		}
	}
	// One that hangs does not hold up whoever has given up waiting.
	helper(t, "slow", `echo asked >"$ASKED"; exec sleep 600`)
	asked := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(asked, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ASKED", asked)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if _, err := os.ReadFile(asked); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	if _, err := config(`{"credsStore": "slow"}`).auth(ctx, "a.b"); err == nil {
		t.Error("a helper that says nothing gives credentials")
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
		s.transport = func(*reach) http.RoundTripper { return redirected{srv.host, http.DefaultTransport} }
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
	port := other.host[strings.LastIndexByte(other.host, ':'):]
	for _, to := range []string{
		"http://127.0.0.2" + port, "http://localhost" + port, "http://LOCALHOST" + port, "https://LOCALHOST" + port, "https://localhost." + port, "https://x.localhost" + port,
		"http://r.example", "https://10.0.0.1", "https://[::1]" + port, "https://[::ffff:127.0.0.1]" + port, "https://0.0.0.0" + port, "https://169.254.169.254", "https://100.64.0.1",
	} {
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
