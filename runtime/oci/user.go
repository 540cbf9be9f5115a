package oci

import (
	"context"
	"fmt"

	"github.com/boxlitefs/boxlite/runtime/userdb"
)

// IDs is how many user ids, and how many group ids, a container has.
const IDs = 1 << 16

// User resolves `user[:group]` by the files of a container's root.
func User(ctx context.Context, root *userdb.Root, name string) (userdb.User, error) {
	u, err := userdb.In(root, IDs-1).Lookup(ctx, name)
	if err != nil {
		return u, fmt.Errorf("user %q of the container: %w", name, err)
	}
	return u, nil
}
