package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"time"

	helpers "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// credentialKeys are the keys of a docker config.json that say who we are to a registry.
// A helper comes before an entry of auths, which docker login leaves empty then.
type credentialKeys struct {
	Auths   map[string]authEntry `json:"auths"`
	Store   string               `json:"credsStore"`  // the helper of all registries
	Helpers map[string]string    `json:"credHelpers"` // by registry
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of USER:PASSWORD
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// helperName is what may follow docker-credential- in the name of a program on PATH.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// check says what is wrong, and gives the keys the form that references have.
func (c *credentialKeys) check() error {
	auths := map[string]authEntry{}
	for key, a := range c.Auths {
		host, err := registryHost(key)
		if err != nil {
			return fmt.Errorf("auths: %q: %w", key, err)
		}
		if a.Auth != "" {
			text, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
			if err != nil || !ok {
				return fmt.Errorf("auths: %q: auth is not the base64 of USER:PASSWORD", key)
			}
			a.Username, a.Password = user, password
		}
		if a.Username == "" && a.IdentityToken == "" && a.RegistryToken == "" {
			continue // a helper has it, or nobody
		}
		if _, twice := auths[host]; twice {
			return fmt.Errorf("auths: %s is there twice", host)
		}
		auths[host] = a
	}
	c.Auths = auths
	byHost := map[string]string{}
	for key, helper := range c.Helpers {
		host, err := registryHost(key)
		if err != nil {
			return fmt.Errorf("credHelpers: %q: %w", key, err)
		}
		if !helperName.MatchString(helper) {
			return fmt.Errorf("credHelpers: %q: %q is no name of a helper: docker-credential-NAME is run", key, helper)
		}
		byHost[host] = helper
	}
	c.Helpers = byHost
	if c.Store != "" && !helperName.MatchString(c.Store) {
		return fmt.Errorf("credsStore: %q is no name of a helper: docker-credential-NAME is run", c.Store)
	}
	return nil
}

// auth returns the credentials for a registry.
func (c *credentialKeys) auth(ctx context.Context, registry string) (authn.Authenticator, error) {
	helper := c.Helpers[registry]
	if helper == "" {
		helper = c.Store
	}
	if helper != "" {
		a, err := ask(ctx, helper, registry)
		if a != nil || err != nil {
			return a, err
		}
	}
	a, ok := c.Auths[registry]
	if !ok {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}), nil
}

const (
	// helperBound is how long a credential helper may take: it may have to ask the network.
	helperBound = 30 * time.Second
	// helperMax bounds what one may say, in bytes.
	helperMax = 1 << 20
	// tokenUser is what a helper gives for a user when the secret is an identity token.
	tokenUser = "<token>"
)

// ask runs a credential helper, and returns nil if it knows nothing of the registry. The
// library's own keychain takes an error of a helper for that, so that the registry's
// refusal would be all that is seen.
func ask(ctx context.Context, helper, registry string) (authn.Authenticator, error) {
	program, err := exec.LookPath("docker-credential-" + helper)
	if err != nil {
		return nil, fmt.Errorf("the file of --registry-config names a credential helper that cannot be run: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, helperBound)
	defer cancel()
	server := registry
	if registry == name.DefaultRegistry {
		server = authn.DefaultAuthKey // docker login knows it so
	}
	got, err := helpers.Get(func(args ...string) helpers.Program { return newHelperProgram(ctx, program, args) }, server)
	switch {
	case err != nil && credentials.IsErrCredentialsNotFound(err):
		return nil, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("docker-credential-%s has given no credentials for %s within %s", helper, registry, helperBound)
	case err != nil:
		return nil, fmt.Errorf("docker-credential-%s gives no credentials for %s: %.300s", helper, registry, err.Error())
	case got.Username == tokenUser:
		return authn.FromConfig(authn.AuthConfig{IdentityToken: got.Secret}), nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: got.Username, Password: got.Secret}), nil
}

// helperProgram is one call of a credential helper, which is killed when its time is up.
type helperProgram struct {
	cmd *exec.Cmd
	out cappedBuffer
}

func newHelperProgram(ctx context.Context, path string, args []string) *helperProgram {
	p := &helperProgram{cmd: exec.CommandContext(ctx, path, args...)}
	p.cmd.Stdout = &p.out
	// What the helper may leave running has its pipe: that is not waited for.
	p.cmd.WaitDelay = time.Second
	return p
}

// Input is what the helper reads.
func (p *helperProgram) Input(in io.Reader) { p.cmd.Stdin = in }

// Output runs it, and returns what it has said.
func (p *helperProgram) Output() ([]byte, error) {
	err := p.cmd.Run()
	return p.out.Bytes(), err
}

// cappedBuffer takes at most helperMax bytes.
type cappedBuffer struct{ bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > helperMax {
		return 0, fmt.Errorf("it says more than %d bytes", helperMax)
	}
	return b.Buffer.Write(p)
}
