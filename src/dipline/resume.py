"""Checkpoints, signals, and the lease that keeps a second writer out of a reconstruction's state folder.

A job leaves with :data:`store.AGAIN` after a signal or when a newer job wants its state folder: its checkpoint is written,
and the scheduler is to try again.
"""

import io
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import torch

from dipline import lease, store
from dipline.loop import Interrupted

EVERY = float(os.environ.get("DIPLINE_CHECKPOINT_SECONDS", 60))


class Lost(Interrupted):
    """Another job owns the state folder: leave without writing anything."""


class Lease:
    """One writer for a state folder, across nodes and schedulers: the newest job wins, the older one saves and leaves.

    The owner is a hard link to a card with a token (``link`` is atomic, also on NFS); a newcomer leaves a note and
    waits for the owner's next :meth:`beat`, or takes over when the owner's heartbeat is older than ``STALE`` seconds or
    Slurm or the kernel says that it is gone.
    """

    BEAT, STALE = lease.BEAT, lease.STALE

    def __init__(self, folder):
        self.folder = Path(folder)
        self.owner, self.note, self.last = self.folder / lease.OWNER, self.folder / "takeover", 0.0
        self.me = {
            "token": uuid.uuid4().hex, "born": time.time(), "job": os.environ.get("SLURM_JOB_ID"),
            "host": socket.gethostname(), "pid": os.getpid(),
        }  # fmt: skip

    def holder(self):
        return lease.holder(self.owner)

    def mine(self):
        """Ask before every rename into place."""
        return (self.holder() or {}).get("token") == self.me["token"]

    def acquire(self, signals=None):
        """Wait until the folder is ours. Raises Lost: a newer job has it; Interrupted: a signal came first."""
        card = self.folder / f".{self.me['token']}"
        store.write_text(card, json.dumps(self.me))
        try:
            while not self._taken(card):
                if signals and signals.seen:
                    raise Interrupted(f"a signal came while another job held {self.folder}")
                time.sleep(0.2)
        finally:
            card.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _taken(self, card):
        """One attempt to become the owner."""
        try:
            os.link(card, self.owner)
            return True
        except FileExistsError:
            held = self.holder()
        if held is None:
            return False
        if held["born"] > self.me["born"]:
            raise Lost(f"a newer job holds {self.folder}: {held}")
        os.utime(card)  # both times from the file server's clock
        try:
            stale = card.stat().st_mtime - self.owner.stat().st_mtime > self.STALE
            if stale or self._over(held):
                grave = self.folder / f".dead-{held['token']}"
                os.rename(self.owner, grave)
                if json.loads(grave.read_text())["token"] != held["token"]:  # somebody was faster: give it back
                    os.link(grave, self.owner)
                grave.unlink()
                return False
        except (FileNotFoundError, FileExistsError):
            return False
        store.write_text(self.note, str(self.me["born"]))
        time.sleep(0.8)
        return False

    def _over(self, held):
        """Whether the holder surely runs no more."""
        if held["job"] and self.me["job"]:
            if held["job"] == self.me["job"]:
                return True  # our own life before a requeue
            ask = ["squeue", "-h", "-t", "all", "-o", "%T", "-j", held["job"]]
            run = subprocess.run(ask, capture_output=True, text=True)
            alive = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"} & set(run.stdout.split())
            return (run.returncode == 0 and not alive) or "Invalid job id" in run.stderr
        return lease.gone(held)

    def beat(self):
        """Called at every iteration. True: a newer job waits; save, release, leave."""
        if time.monotonic() - self.last < self.BEAT:
            return False
        self.last = time.monotonic()
        if not self.mine():
            raise Lost(f"another job took {self.folder}: {self.holder()}")
        os.utime(self.owner)
        try:
            return float(self.note.read_text()) > self.me["born"]
        except (FileNotFoundError, ValueError):
            return False

    def release(self):
        if self.mine():
            self.owner.unlink()


class Signals:
    """Notes SIGTERM, SIGUSR1 and SIGINT (Ctrl-C); the loop acts between two iterations."""

    def __init__(self):
        self.seen = []
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda n, frame: self.seen.append(n))


class Keeper:
    """The checkpoint of one slice: when one is due, where it lies, whether the job has to leave after it."""

    def __init__(self, file, lease, signals, every=None):
        self.file, self.lease, self.signals = Path(file), lease, signals
        self.least = EVERY if every is None else every
        self.every, self.saved = self.least, time.monotonic()

    def leaving(self):
        """Whether the job has to leave now: a signal, or a newer job. Cheap; asked at every iteration."""
        return bool(self.signals.seen) or self.lease.beat()

    def due(self):
        return time.monotonic() - self.saved > self.every

    def save(self, state):
        started = time.monotonic()
        buffer = io.BytesIO()  # torch would hide a full disk behind an error of its own
        torch.save(state, buffer)
        with store.written(self.file) as part:
            part.write_bytes(buffer.getbuffer())
            if not self.lease.mine():
                raise Lost(f"another job took {self.lease.folder}")
        self.saved = time.monotonic()
        self.every = max(self.least, 50 * (self.saved - started))  # a save costs at most two percent

    def load(self):
        """The checkpoint, or None. Tensors, numbers and strings only: nothing in it is executed."""
        try:
            return torch.load(self.file, weights_only=True, map_location="cpu")
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged checkpoint costs its iterations, not the job
            print(f"the checkpoint {self.file} cannot be read ({type(error).__name__}); starting again", flush=True)
            return None
