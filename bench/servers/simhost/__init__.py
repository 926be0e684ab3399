"""A simulated host: the far end of a wire in memory, with a network stack and a server on it."""
