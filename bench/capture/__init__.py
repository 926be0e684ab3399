"""Captures of what was on the wire."""
