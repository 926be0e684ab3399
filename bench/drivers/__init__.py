"""Drivers that are not ours: Python classes of somebody's file, and shared libraries of C."""
