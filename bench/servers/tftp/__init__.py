"""A TFTP server that only takes files: in the memory of a simulated host, and on real sockets."""
