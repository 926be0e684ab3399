"""TFTP, as a dying kernel writes its dump with it: one file, written once, front to back."""
