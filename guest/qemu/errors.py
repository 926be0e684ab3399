"""What goes wrong with a QEMU. Each carries its evidence, for the verdict and the log."""

from __future__ import annotations

from collections.abc import Sequence

_TAIL = 2_000


class QemuError(Exception):
    """QEMU, or what we asked of it, failed. The last line of the message tells what happened."""


class QemuLaunchFailure(QemuError):
    """It did not start. Carries the command, the exit status and what it printed."""

    def __init__(self, command: Sequence[str], status: int | None, output: str) -> None:
        self.command = list(command)
        self.status = status
        self.output = output
        ended = "did not answer in time" if status is None else f"exited {status}"
        said = output[-_TAIL:].strip() or "(nothing)"
        super().__init__(f"{' '.join(command)}\nQEMU {ended}; it printed: {said}")


class QemuMissing(QemuLaunchFailure):
    """There is no such program."""

    def __init__(self, program: str) -> None:
        super().__init__([program], None, "")
        self.args = (f"there is no {program} on the PATH",)


class QemuGone(QemuError):
    """It was there, and is no more: killed, crashed, or shut down."""


class QtestRefused(QemuError):
    """QEMU did not take a qtest command: a defect of ours."""


class MonitorRefused(QemuError):
    """QEMU did not do what QMP asked for."""
