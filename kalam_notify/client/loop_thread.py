"""An event loop in a thread of its own, for programs that have none."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kalam_notify.client.faults import Closed

R = TypeVar("R")

_CLOSED = "the connection was closed"


class LoopThread:
    """Runs a loop until `stop`. A daemon: a script that ends does not wait for it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._is_stopped = False
        # Nothing is handed to the loop behind its stop, where it would be waited for in vain.
        self._scheduling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kalam-notify", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Await `work` in the loop, and answer what it answers, or raise what it raises.

        Interrupted, it cancels the work. Raises Closed after `stop`, RuntimeError in a forked
        process, which has not the thread, and in the thread itself, which would wait for itself.
        """
        try:
            with self._scheduling:
                self._check()
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], R]) -> R:
        """Call `function` between two turns of the loop; at once where there is no loop (any more).

        So what it looks at does not change meanwhile.
        """
        outcome: concurrent.futures.Future[R] = concurrent.futures.Future()

        def work() -> None:
            try:
                outcome.set_result(function())
            except BaseException as fault:
                outcome.set_exception(fault)

        with self._scheduling:
            is_direct = self._is_stopped or self._is_inside
            if not is_direct:
                self._check()
                self._loop.call_soon_threadsafe(work)
        return function() if is_direct else outcome.result()

    def stop(self) -> None:
        """Stop the loop, whose work must be done, and wait for the thread."""
        with self._scheduling:
            if self._is_stopped:
                return
            self._is_stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if not self._is_inside:
            self._thread.join()

    @property
    def _is_inside(self) -> bool:
        return threading.current_thread() is self._thread

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this connection is of the process before the fork: connect after it"
            )
        if self._is_stopped:
            raise Closed(_CLOSED)
        if self._is_inside:
            raise RuntimeError("a listener cannot wait for the loop that it is called from")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._cancel_all())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _cancel_all(self) -> None:
        """What somebody still waits for."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
