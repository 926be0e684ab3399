"""What a NIC family offers so that its model can be compared with QEMU's device.

``contract`` says what that is: a ``Differential``. ``steps`` are the steps that any family has,
``pc`` is the PC that both devices are in. The comparison itself is the bench's (``bench/truth``).
"""
