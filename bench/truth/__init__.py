"""Device truth: our model of a NIC and QEMU's device on the same traces.

A trace is steps (``nic_models/differential/steps``): registers, descriptors, frames, the cable. It
is played on two devices side by side (``pair``): ours on a numpy array, QEMU's in a machine without
software whose RAM is mapped. After every step the values that the family watches, the interrupt
line, memory and the frames that left must be equal (``rig``).

What a family's traces are drawn from (``traces``), what is watched, and where the two may differ,
is the family's to say: its ``Differential`` (``nic_models/differential/contract``). A row of its
table says what the manual says, what each of the two does, and how the comparison accounts for it;
``page`` prints the table. What no row explains is a defect, and is shown as the shortest trace that
shows it (``shrink``).

``python -m bench.truth --nic NAME`` plays random traces for as long as it is told to.
"""
