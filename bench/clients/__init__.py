"""Dump clients, by their kinds: what each takes in a scenario, and how it is told.

``profile`` is ours, on the case's machine. A client that is a program of somebody else
(``command``) has the machine's end of the wire for itself: it is started with the arguments of a
template, in a network namespace that holds that end as an interface
(``machine_end``), and is watched while it runs (``program``).
"""
