"""The e1000 beside QEMU's: what traces are made of, what is looked at, where the two differ.

``table`` puts it together. Rows are by subject: ``registers``, ``transmit``, ``arrival`` (which
frames come in, and when) and ``delivery`` (what is written and counted).
"""
