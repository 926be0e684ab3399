"""Machines that die, by their kinds: what each takes in a scenario, and how it is told."""
