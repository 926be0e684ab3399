"""QMP, for code that is not asynchronous.

``qemu.qmp`` lives in an event loop; here one runs in a thread of its own, and every call waits for
it with a limit. Events are kept in the order of their arrival until somebody asks for them, so none
is lost between two waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from guest.qemu.errors import MonitorRefused, QemuGone

T = TypeVar("T")

#: The longest that a command may take, seconds. A dump of all memory is one.
COMMAND_TIMEOUT_S: Final = 180.0
_CONNECT_TIMEOUT_S: Final = 120.0
#: How long a wait for an event sleeps before it gives its caller a turn.
_TURN_S: Final = 0.002
#: How often, and how long, what still goes on is asked to end.
_ROUNDS, _ROUND_S = 3, 1.0


class Monitor:
    """A connected QMP session."""

    def __init__(self, end: socket.socket) -> None:
        """``end``: connected, stream; ours from now on.

        Raises:
            QemuGone: QEMU does not greet.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        end.setblocking(False)
        self._end = end
        try:
            self._client = self._wait(self._connect(end), _CONNECT_TIMEOUT_S)
        except (QMPError, OSError, concurrent.futures.TimeoutError) as error:
            self._stop()
            raise QemuGone(f"QEMU's monitor does not answer: {error}") from error

    def execute(self, command: str, **arguments: object) -> Any:
        """What QMP answers. An underscore in an argument's name stands for QMP's hyphen.

        Raises:
            MonitorRefused: QEMU says no.
            QemuGone: it does not answer, or was hung up on.
        """
        if self._loop.is_closed():
            raise QemuGone(f"QMP {command}: the monitor was closed")
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return self._wait(self._client.execute(command, named or None), COMMAND_TIMEOUT_S)
        except ExecuteError as error:
            raise MonitorRefused(f"QMP {command} {named or ''}: {error}") from error
        except (QMPError, OSError, EOFError, concurrent.futures.TimeoutError) as error:
            raise QemuGone(f"QMP {command}: {type(error).__name__} {error}") from error

    def pass_fd(self, name: str, fd: int) -> None:
        """Give QEMU a descriptor of its own for the open file ``fd``; there it bears ``name``.

        Raises:
            MonitorRefused, QemuGone: as ``execute``.
        """
        try:
            # It travels with a byte; a blank between two commands means nothing.
            socket.send_fds(self._end, [b" "], [fd])
        except OSError as error:
            raise QemuGone(f"QMP getfd {name}: {error}") from error
        self.execute("getfd", fdname=name)

    def human(self, command: str) -> str:
        """What the human monitor prints for what QMP has no command for."""
        return str(self.execute("human-monitor-command", command_line=command))

    def wait_for(
        self, names: tuple[str, ...], timeout_s: float, idle: Callable[[], None]
    ) -> dict[str, Any] | None:
        """The next event of one of these names; others are forgotten. None after the timeout.

        ``idle`` is called every other millisecond meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                event = self._events.get(timeout=_TURN_S)
            except queue.Empty:
                idle()
                continue
            if event["event"] in names:
                return event
        return None

    def pending(self, name: str) -> bool:
        """Whether such an event has come; all that came is forgotten."""
        found = False
        while not self._events.empty():
            found |= self._events.get()["event"] == name
        return found

    def close(self) -> None:
        """Hang up. Twice is harmless; a QEMU that is gone is no error."""
        if self._loop.is_closed():
            return
        try:
            self._wait(self._client.disconnect(), _CONNECT_TIMEOUT_S)
        except (QMPError, OSError, EOFError, concurrent.futures.TimeoutError):
            pass  # it hung up first
        finally:
            self._stop()

    async def _connect(self, end: socket.socket) -> QMPClient:
        client = QMPClient("netdump-bench")
        client.logger.setLevel("CRITICAL")  # what goes wrong is raised
        await client.connect(end)
        self._listening = asyncio.ensure_future(self._listen(client))
        return client

    async def _listen(self, client: QMPClient) -> None:
        while True:
            self._events.put(dict(await client.events.get()))

    def _wait(self, what: Coroutine[Any, Any, T], timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def _stop(self) -> None:
        async def end() -> None:
            for _ in range(_ROUNDS):  # what is cancelled may begin something else, to clean up
                left = asyncio.all_tasks() - {asyncio.current_task()}
                if not left:
                    break
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=_ROUND_S)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(_CONNECT_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()
