"""What a dying kernel has left, whichever machine it runs on: memory, locks, buffers, a guard."""
