"""Which processes are left."""

import os
import time

import psutil


def in_session(session: int) -> list[int]:
    """The processes of a session, whoever their parent is; without those that only wait to be reaped."""
    return [process.pid for process in psutil.process_iter() if _is_alive_in(process, session)]


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def wait_until_gone(session: int, deadline_s: float) -> None:
    """Raises AssertionError, naming the processes, where some are left after the deadline."""
    deadline = time.monotonic() + deadline_s
    while left := in_session(session):
        assert time.monotonic() < deadline, f"processes {left} outlived the command by {deadline_s} s"
        time.sleep(0.02)
