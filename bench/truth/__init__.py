"""Device truth: our e1000 and QEMU's on the same traces.

A trace (``steps``) is played on two devices side by side (``pair``): ours on a numpy array, QEMU's
in a machine without software whose RAM is mapped. After every step their heads, interrupt causes,
interrupt line, memory and the frames that left must be equal (``rig``).

Where they may differ, a row of a table says so (``differences``): what the manual says, what each
of them does, and how the comparison accounts for it. What no row explains is a defect, and is
shown as the shortest trace that shows it (``shrink``).

``python -m bench.truth`` plays random traces (``traces``) for as long as it is told to.
"""
