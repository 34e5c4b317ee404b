"""How far a study is, while it runs and afterwards. It reads what lies on disk, asks Slurm where there is one, and writes nothing.

A *reconstruction* is a block of slices of one volume, acquisition, arm and seed: one job. It is

    done, failed   by its result; failed as well without one, when its log ends with an error or it was killed early
    running        when somebody holds its state folder, or its log has just been opened
    stopped        half done and nobody's: the next run goes on from its checkpoint
    waiting        otherwise, also when its result belongs to settings that the study no longer has (outdated)

A study may have tens of thousands: where a score says that all went well, no reconstruction is opened, and what was read
once is read again only when it has changed.
"""

import json
import os
import re
import subprocess
import textwrap
import time
from collections import Counter
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path

from dipline import lease, store

SHOWN = 20  # lines of a list
STARTS = 300.0  # seconds that a job may need until its first word: a cluster's file system may hand out torch slowly
TAIL = 8192  # bytes of a log that are read
JOBS = "dipline"  # how the names of Slurm jobs begin: slurm-jobname-prefix in the profile

# what a log says (blocks.py, loop.py, cli.py)
IMAGE = re.compile(r"^(?:slice \d+|fitting )", re.M)  # what stands before it is about another image, or another fit
STEP = re.compile(r"^(?:step (\d+)/(\d+) .* ([\d.]+) it/s  eta ([\d.]+) min|(?:resumed|leaving: saved) .*iteration (\d+))", re.M)
USUAL = re.compile(r"step |slice |starts |note: |resumed |fitting |leaving: |all cards |the checkpoint |\s|.*Warning: ")
ERROR = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.M)
KILLED = "killed without a word before its first checkpoint"
BROKEN = "its result cannot be read; delete the file and run Snakemake again"


class Survey:
    """Looks at a study as often as it is asked to; remembers what files that have not changed said."""

    def __init__(self, plan):
        self.plan, self.known = plan, {}
        self.work = Path(os.path.normpath(plan.root / ".." / ".."))  # where Snakemake runs
        self.spec = cache(lambda *key: json.loads(plan.reconstruct_spec(*key)))

    def look(self):
        """What ``dipline status --json`` prints, as a dict."""
        plan, counts, scores, newest = self.plan, Counter(), Counter(), 0
        lists, failed = {"running": [], "stopped": []}, {}
        measured = {key: self._measured(*key) for key in dict.fromkeys(job[:3] for job in plan.jobs)}
        for job in plan.jobs:
            scored, at, blocks = self._job(job, *measured[job[:3]])
            scores[scored] += 1
            newest = max(newest, at)
            for name, (state, details) in blocks.items():
                counts[state] += 1
                if state == "failed":
                    alike = re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", details["reason"])
                    failed.setdefault(alike, {"count": 0, "recon": name} | details)["count"] += 1
                elif state in lists:
                    lists[state].append({"recon": name} | details)
        states, page = Counter(state for state, _ in measured.values()), plan.root / "report.html"
        return {
            "study": plan.study.study,
            "counts": {
                "total": counts.total(), **{state: counts[state] for state in ("done", "running", "stopped", "failed")},
                "waiting": counts["waiting"] + counts["outdated"], "outdated": counts["outdated"],
            },
            **lists, "failed": sorted(failed.values(), key=lambda group: -group["count"]),
            "measurements": {"total": len(measured), "done": states["done"], "failed": states["failed"]},
            "scores": {"total": len(plan.jobs), "done": scores["done"], "failed": scores["failed"]},
            "report": {"file": str(page), "current": page.stat().st_mtime_ns >= newest} if page.exists() else None,
            "slurm": slurm(self.work),
        }  # fmt: skip

    def _ask(self, file, read):
        """(what ``read`` makes of a file, time of its last change in ns); (None, 0) where there is no file."""
        try:
            stat = os.stat(file)
        except FileNotFoundError:
            return None, 0
        mark = stat.st_mtime_ns, stat.st_size
        if self.known.get(file, (None,))[0] != mark:
            self.known[file] = mark, read(file)
        return self.known[file][1], stat.st_mtime_ns

    def _measured(self, dataset, volume, acq):
        """(done | failed | outdated | None, time) of a measurement."""
        wanted = json.loads(self.plan.measure_spec(dataset, acq))
        found, when = self._ask(self.plan.measurement(dataset, volume, acq), lambda file: _result(file, wanted))
        return found and found[0], when

    def _job(self, job, measured, since):
        """(done | failed | None, by its score; the score's time; {name of a block: (state, details)})

        Args:
            measured, since: state and time of the measurement.
        """
        plan, wanted = self.plan, self.spec(job.dataset, job.acq, job.arm)
        blocks, path = plan.blocks(job.dataset, job.volume, job.arm), f"{'/'.join(job[:4])}/seed{job.seed}"
        scored, at = self._ask(plan.score(job), lambda file: _scored(file, wanted))
        there = _listed(plan.root / "recon" / path)
        made = {block: there.get(f"{block}.h5", 0) for block in blocks}
        if measured == "outdated" or not all(when and since <= when <= at for when in made.values()):
            scored = None  # a part of it will be made again
        if scored == "done":
            return scored, at, {f"{path}/{block}": ("done", {}) for block in blocks}
        states, logs, found = plan.root / ".state" / path, self.work / "logs" / plan.study.study / "reconstruct" / path, {}
        started = _listed(states)
        for (block, slices), file in zip(blocks.items(), plan.recons(job), strict=True):
            log = str(logs / f"{block}.log")
            result = self._ask(file, lambda file: _result(file, wanted))[0] if made[block] else None
            if result is None:
                state, details = _unfinished(states / block if block in started else None, log, len(slices))
            else:  # Snakemake removes a result before it makes it again
                state = "outdated" if measured == "outdated" or made[block] < since else result[0]
                details = {"reason": result[1], "log": log}
            found[f"{path}/{block}"] = state, details
        return scored, at, found


def _listed(folder):
    """{name: time of the last change in ns} of what lies in a folder; what is removed meanwhile is left out."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat().st_mtime_ns
    return found


def _scored(file, wanted):
    """done | failed | None: it cannot be read, or is of other settings than ``wanted``."""
    try:
        found = json.loads(Path(file).read_text())
        return found["status"] if all(spec == wanted for spec in found.get("specs", [])) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _result(file, wanted):
    """(done | failed | outdated: of other settings than ``wanted``; why it failed) of a measurement or a reconstruction."""
    try:
        state, provenance = store.peek(file, "status", "provenance")
        spec = json.loads(provenance)["spec"]
        if any(spec.get(key) != value for key, value in wanted.items()):
            return "outdated", ""
        if state == "done":
            return "done", ""
        head, slices = store.read(file, names=())
        heads = [head] if "reason" in head else slices.values()
        return "failed", "; ".join(dict.fromkeys(head["reason"] for head in heads if head["status"] == "failed"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "failed", BROKEN


def _unfinished(folder, log, slices):
    """(running | stopped | failed | waiting, details) of a block without a result.

    Args:
        folder: of its states, None where there is none.
        slices: how many it has.
    """
    holder, died, finished, kept = _state(folder) if folder else (None, False, 0, False)
    words, written = _tail(log)
    words = words[max((match.start() for match in IMAGE.finditer(words)), default=0) :]
    k = of = speed = left = None
    for step, total, pace, minutes, saved in STEP.findall(words):
        if saved:
            k = int(saved)
        else:
            k, of, speed, left = int(step), int(total), float(pace), float(minutes)
    where = {"iteration": k, "of": of, "slice": min(finished + 1, slices), "slices": slices, "log": log}
    if holder or (written and not words and time.time() - written / 1e9 < STARTS):
        who = {key: (holder or {}).get(key) for key in ("host", "job")}
        return "running", where | {"speed": speed, "minutes_left": left} | who
    last = words.rstrip().rsplit("\n", 1)[-1]
    if last and not USUAL.match(last):
        return "failed", {"reason": (ERROR.findall(words) or [last])[-1], "log": log}
    if kept or finished:
        return "stopped", where
    if died or (written and not words):
        return "failed", {"reason": KILLED, "log": log}
    return "waiting", {}


def _state(folder):
    """(living holder or None, whether one died, finished slices, whether there is a checkpoint) of a block.

    It has a state for each set of settings: the one that somebody holds counts, else the newest.
    """
    states = {Path(folder, name): when for name, when in _listed(folder).items()}
    holders = {state: lease.alive(state / lease.OWNER) for state in states}
    state = max(states, key=lambda state: (holders[state] is not None, states[state]), default=None)
    names = _listed(state) if state else {}
    finished = sum(bool(re.fullmatch(r"s\d+\.h5", name)) for name in names)
    return holders.get(state), lease.OWNER in names, finished, any(name.endswith(".pt") for name in names)


def _tail(log):
    """(the last words of a log, time of its last change in ns); ("", 0) where there is none."""
    try:
        with open(log, "rb") as f:
            stat = os.fstat(f.fileno())
            f.seek(max(0, stat.st_size - TAIL))
            return f.read().decode(errors="replace"), stat.st_mtime_ns
    except FileNotFoundError:
        return "", 0


def slurm(folder):
    """{"running", "pending", "preempted": [{"id", "job"}]} of a folder's jobs; None where there is no Slurm, or no answer.

    Slurm starts a job that stays PREEMPTED no more, and Snakemake waits for it.
    """
    ask = ["squeue", "--me", "-h", "-t", "all", "-o", "%i|%j|%Z|%T|%k"]
    try:
        run = subprocess.run(ask, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if run.returncode:
        return None
    rows = [row for row in (line.split("|", 4) for line in run.stdout.splitlines()) if len(row) == 5]
    rows = [row for row in rows if row[1].startswith(JOBS) and os.path.realpath(row[2]) == os.path.realpath(folder)]
    number = lambda row: int(re.match(r"\d*", row[0])[0] or 0)  # noqa: E731
    states, newest = Counter(row[3] for row in rows), {row[4]: row for row in sorted(rows, key=number)}
    lost = [row for row in rows if row[3] == "PREEMPTED" and newest[row[4]] == row]  # no later job does the same
    preempted = [{"id": row[0], "job": row[4].removeprefix("rule_")} for row in lost]
    return {"running": states["RUNNING"], "pending": states["PENDING"], "preempted": preempted}


def text(found):
    """What ``dipline status`` prints of :meth:`Survey.look`."""
    counts, report, queue = found["counts"], found["report"], found["slurm"]
    states = [f"{counts[state]} {state}" for state in ("done", "running", "stopped", "failed", "waiting") if counts[state]]
    lines = [f"reconstructions  {counts['total']}: {', '.join(states)}"]
    if counts["outdated"]:
        lines.append(f"                 {counts['outdated']} of those waiting have a result of other settings, to be made again")
    for what in ("measurements", "scores"):
        n = found[what]
        lines.append(f"{what:15}  {n['done']} of {n['total']} done" + (f", {n['failed']} failed" if n["failed"] else ""))
    older = " (older than the scores)" if report and not report["current"] else ""
    lines.append(f"report           {report['file'] if report else 'not yet'}{older}")
    if queue:
        lines.append(f"Slurm            {queue['running']} job(s) running, {queue['pending']} pending")
        advice = "was preempted and will not come back: press Ctrl-C in Snakemake's terminal and start it again; it resumes"
        lines += _some([f"job {job['id']} ({job['job']}) {advice}" for job in queue["preempted"]])
    lines += _list("running", _progress(found["running"]))
    lines += _list("stopped: the next run goes on from their checkpoints", _progress(found["stopped"]))
    short = lambda reason: textwrap.shorten(reason, 200, placeholder=" …")  # noqa: E731
    groups = [f"{group['count']} x {short(group['reason'])}\n      {group['log']}" for group in found["failed"]]
    lines += _list("failed, with the log of the first: `dipline retry` removes failed results, so that they are made again", groups)
    return "\n".join(lines)


def _list(title, rows):
    return ["", title, *_some([f"  {row}" for row in rows])] if rows else []


def _some(rows):
    return rows[:SHOWN] + ([f"  … {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])


def _progress(items):
    """One line for each: where it is, how fast, by whom."""
    width, rows = max((len(item["recon"]) for item in items[:SHOWN]), default=0), []
    for item in items:
        k, of, job = item["iteration"], item["of"], item.get("job")
        parts = [item["recon"].ljust(width), "begun" if k is None else f"{k}/{of}" if of else f"iteration {k}"]
        if item.get("speed") is not None:
            parts.append(f"{item['speed']} it/s  {item['minutes_left']} min left")
        if item["slices"] > 1:
            parts.append(f"slice {item['slice']} of {item['slices']}")
        if item.get("host"):
            parts.append(item["host"] + (f", job {job}" if job else ""))
        rows.append("  ".join(parts))
    return rows


def watch(look, show, seconds):
    """Look every so many seconds until nothing runs or waits.

    On a terminal what is shown stays in its place; elsewhere it is printed once each time it has changed.

    Args:
        look: returns what ``show`` makes a text of, as :meth:`Survey.look`.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, before = Console(), None
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            found = look()
            now = show(found)
            if live:
                live.update(Text(now, no_wrap=True, overflow="ellipsis"), refresh=True)
            elif now != before:
                print(now, flush=True)
            before, queue = now, found["slurm"] or {"running": 0, "pending": 0}
            if not any((found["counts"]["running"], found["counts"]["waiting"], queue["running"], queue["pending"])):
                return
            time.sleep(seconds)
