"""QEMU as a machine to take apart: its process, its RAM, its PCI bus, its monitor."""
