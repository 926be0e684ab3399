"""Judging a run: what was seen on the wire, what is on the disk, and the oracles over both."""
