"""What takes long, done beside the server's loop, in one thread; or at once, where there is none.

The loop has to empty sockets before they overflow, so it waits for no disk that it need not wait
for. One thread is enough: it reads back what the loop has written, and a dump's stretches have
their order. It is made at the start, before the first client: a sandbox may refuse threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from netdump.errors import NetdumpError

#: Calls a function, which returns a number of bytes, at some time, perhaps in another thread.
Later = Callable[[Callable[[], int]], "Future[int]"]


def at_once(read: Callable[[], int]) -> Future[int]:
    """In this thread, before it returns."""
    done: Future[int] = Future()
    try:
        done.set_result(read())
    except NetdumpError as error:
        done.set_exception(error)
    return done


@contextmanager
def one_thread() -> Iterator[Later]:
    """A thread for as long as the context lasts; what was asked for is done when it ends."""
    pool = ThreadPoolExecutor(1, "beside")
    try:
        pool.submit(int).result()
    except RuntimeError:  # what the interpreter says of a thread that can't be made
        yield at_once
        return
    with pool:
        yield pool.submit
