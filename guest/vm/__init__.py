"""A machine of the user's own: a disk image, a kernel by path, or the firmware alone."""
