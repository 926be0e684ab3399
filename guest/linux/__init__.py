"""A real Linux kernel that dies under QEMU: ``image`` makes it from distribution packages."""
