"""Wires between the machine's NIC and the server, and the middleware that wraps them."""
