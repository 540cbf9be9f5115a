package status

// Owner is who may use a file of a box, as set by chown and chmod.
type Owner struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"` // permission bits
	// Follows says what of it was never set. The value is then what it was at the last
	// change, as a daemon that does not know the word takes it.
	Follows Follows `json:"follows,omitempty"`
}

// Follows is what of a file's Owner follows the box's directory.
type Follows uint32

// The parts of an Owner. The numbers are on disk.
const (
	FollowsUID Follows = 1 << iota
	FollowsGID
	FollowsMode

	FollowsAll = FollowsUID | FollowsGID | FollowsMode
)
