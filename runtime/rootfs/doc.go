// Package rootfs gives access to the files of a run of a box, for whoever is root on the host.
//
// The box is hostile, and changes its files at the same time: it renames, swaps directories
// for symbolic links, and mounts. Therefore
//
//   - no path is ever given to the kernel to be resolved as a whole. It is walked name by
//     name, from a descriptor of the box's root, and no symbolic link is followed. A walk
//     can only go down, so it ends at a file that the box could have named;
//   - what was found is held by a descriptor (O_PATH: finding it does nothing to it), looked
//     at through that, and opened through that if it is a regular file or a directory. A FIFO
//     or a device is never opened;
//   - a mount is not entered before its type is known to be one whose files are on this
//     machine, see localTypes. So no request reaches a server that need not answer, which
//     could be this daemon itself;
//   - nothing is done that root in the box may not do, see may. The daemon is root on the host,
//     and the box may have been given directories of the host that its root has no power over.
//
// The package knows a run by its ids and by the process that is its command, which
// FindCommand finds, and no box.
package rootfs
