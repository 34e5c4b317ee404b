"""Who holds the state folder of a reconstruction: what `resume.Lease` and `dipline status` both ask. No torch here."""

import json
import os
import socket
import time

BEAT, STALE = 5.0, 60.0  # seconds between two heartbeats; after so many without one the holder counts as dead
OWNER = "owner.json"  # in the state folder; its time is the last heartbeat


def holder(owner):
    """What the holder says of itself ("token", "born", "job", "host", "pid"); None where nobody holds the folder.

    Args:
        owner: the folder's ``owner.json``, a Path.
    """
    try:
        return json.loads(owner.read_text())
    except (FileNotFoundError, ValueError):
        return None


def gone(held):
    """Whether the kernel says that the holder has ended; of another host it knows nothing."""
    if held["host"] != socket.gethostname():
        return False
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def alive(owner):
    """The holder, if it has given a sign of life within ``STALE`` seconds and has not ended since; else None."""
    held = holder(owner)
    try:
        silent = time.time() - owner.stat().st_mtime
    except FileNotFoundError:
        return None
    return held if held and silent < STALE and not gone(held) else None
