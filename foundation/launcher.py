"""Turns into another program that ends with the process that asked for it; run as a script by ``start_child``.

    launcher.py PARENT_PID SIGNAL USER_ID GROUP_ID PROGRAM ARGUMENTS...

A preexec_fn would save these 30 ms, but runs Python between fork and exec, which is unsafe once the parent has threads.
USER_ID is -1 to stay who we are. It stands alone: only the standard library is on the way.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int, signal_number: int) -> None:
    """Have the kernel send a signal to this process when its parent ends; a no-op outside Linux.

    The kernel watches the thread that forked, so a parent starts its children from a thread that lives as long as
    itself. A parent that ended before the request was made is seen by its number.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def main(words: list[str]) -> None:
    """Change the account, bind to the parent, and become the program."""
    parent_pid, signal_number, user_id, group_id = map(int, words[:4])
    if user_id >= 0:
        os.setgroups([])
        os.setgid(group_id)
        os.setuid(user_id)
    # Only now: a change of account clears the request.
    end_with_parent(parent_pid, signal_number)
    os.execv(words[4], words[4:])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
