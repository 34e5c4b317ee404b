"""One graphics card per reconstruction on a machine with several and no scheduler that hands them out.

``snakemake --resources gpu=2`` runs two jobs at a time, but does not say which card is whose. A lock file per card does: the kernel
opens the lock however its process ends, so that a dead job frees its card. Where one card is visible (most Slurm jobs), nothing is left
to choose.
"""

import fcntl
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

_held = []  # open files; a lock lives as long as its file


def claim(device, say=print):
    """Make one free card the only visible one, until this process ends; waits for one. To be called before torch is imported.

    Args:
        device: the study's ``device``; cpu and a card that is named (cuda:1) leave nothing to choose.
        say: gets one line when all cards are taken.

    Returns:
        The card's name in CUDA_VISIBLE_DEVICES, None where there was no choice.
    """
    cards = visible() if device in ("auto", "cuda") else []
    if len(cards) < 2:
        return None
    # within a Slurm job cards are counted from 0, whichever they are: its locks are its own
    folder = Path(tempfile.gettempdir(), "-".join(["dipline-cards", str(os.getuid()), *filter(None, [os.environ.get("SLURM_JOB_ID")])]))
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for card in cards:
            lock = (folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', card)}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = card
            return card
        if not waiting:
            say(f"all cards ({', '.join(cards)}) are taken; waiting (--resources gpu={len(cards)} starts no more jobs than cards)")
            waiting = True
        time.sleep(1)


def visible():
    """Names of the cards that this process may use: CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listed.stdout, re.M) if listed.returncode == 0 else []
