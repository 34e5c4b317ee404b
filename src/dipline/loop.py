"""The optimisation loop: one measurement, one arm, one seed -> one image.

:func:`fit` is the whole of it. A :class:`Run` holds everything that changes (method, optimiser, generators, stop rule,
average, snapshots); its ``state`` goes into a checkpoint, and a run that continues from one gives the bits of an
uninterrupted run.
"""

import contextlib
import hashlib
import math
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import numpy as np
import torch

from dipline import registry
from dipline.methods import penalties
from dipline.methods.base import Method, Problem
from dipline.recorded import Recorded

LOG_SECONDS = 20.0


class Diverged(ArithmeticError):
    """The loss is no longer a number, or far above its first value: a result, not an accident."""


class Interrupted(Exception):
    """Somebody asked the job to leave (signal, newer job); its state is saved."""


@dataclass
class Result:
    """What comes out of a reconstruction; images (parts, H, W) in the scan's own units, on the CPU."""

    image: np.ndarray
    last: np.ndarray
    iterations: int  # like the seconds of all fits, where the arm fits twice
    chosen: int
    seconds: float
    scale: float
    view_scale: float
    snapshots: np.ndarray  # float16 (n, h, w): the view divided by ``view_scale``
    snapshot_steps: list
    losses: list  # [(step, loss)]
    watched: dict  # rule -> step that it would have chosen
    artefacts: dict = field(default_factory=dict)
    networks: list = field(default_factory=list)  # state_dict of each, after the last step


def seed_of(seed, purpose):
    """One number from (seed, purpose): generators never depend on a slice or its position in a block."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")


def plugin_class(kind, name, base):
    """The one subclass of ``base`` that a plug-in's file defines."""
    module = registry.get(kind, name).load()
    own = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__
    ]
    return own[0]


def snapshot_steps(total, count):
    """At most ``count`` step numbers below ``total``, spaced logarithmically, the last one included."""
    if not count:
        return []
    return sorted({int(round(s)) - 1 for s in np.geomspace(1, total, min(count, total))})


class Run:
    """One attempt at one image: everything that changes from step to step."""

    def __init__(self, y, A, arm, seed, inputs, stop, iterations, start=(), say=print):
        from dipline.stopping.base import Rule

        self.arm, self.device, self.say = arm, y.device, say
        self.generators, self.seed, self.networks, self.made, self.start = {}, seed, 0, [], start
        self.rule = self._rule(Rule, stop, iterations)
        self.watched = {next(iter(w)): self._rule(Rule, w, iterations) for w in arm["watch"]}

        keep = self.rule.split(A, y, self.rng("held-out samples"))
        self.held = None
        if keep is not None:
            self.held = A.restrict(~keep), A.select(y, ~keep)
            A, y = A.restrict(keep), A.select(y, keep)
        x0 = A.init(y)
        self.scale, self.view_scale = A.scale_of(x0), A.view_scale(x0)
        for rule in (self.rule, *self.watched.values()):
            rule.measured(A, y, self.scale)
        if arm["precondition"]:
            A, y = A.preconditioned(y, arm["precondition"])
        A, y = A.data_term(arm.get("data_term", "least_squares"), y / self.scale, self.scale)
        inputs = {name: self._in_scale(A, value.to(self.device)) for name, value in inputs.items()}
        penalty, grid = penalties.of(arm.get("penalty")), self.grid(A.domain[1:])
        problem = Problem(y, A, x0 / self.scale, self.network, self.rng, iterations, inputs, penalty, grid)
        self.A = A
        self.method = plugin_class("methods", arm["method"], Method)(problem, **arm["params"]).to(self.device)
        self.stages = self.method.stages()
        if empty := [s.name for s in self.stages if s.steps < 1]:
            raise ValueError(f"iterations: too few for a step of {arm['method']}'s {', '.join(empty)}; allow more, or a stage less")
        before = sum(s.steps for s in takewhile(lambda s: not s.scored, self.stages))  # nothing is shown yet
        total = sum(s.steps for s in self.stages) - before
        self.wanted = [before + k for k in snapshot_steps(total, arm["snapshots"])]
        self.snapshots, self.average, self.last = [], None, None
        self.k, self.stage, self.losses, self.seconds, self.first_scored = 0, -1, [], 0.0, 0
        self.next_stage()

    def _in_scale(self, A, value):
        """An image that is given, such as a prior, in the units of the scaled problem: by its own 99.9th percentile."""
        if not isinstance(value, torch.Tensor) or value.shape != torch.Size(A.domain):
            return value
        return value / A.scale_of(value)

    def _rule(self, base, chosen, iterations):
        ((name, params),) = chosen.items()
        return plugin_class("stopping", name, base)(iterations, **params)

    def rng(self, purpose):
        """The generator of that purpose, on the device."""
        if purpose not in self.generators:
            generator = torch.Generator(self.device)
            self.generators[purpose] = generator.manual_seed(seed_of(self.seed, purpose))
        return self.generators[purpose]

    def grid(self, shape):
        """The size of noise that the arm's network takes for an image of a shape; None: that shape."""
        if not self.arm["network"]:
            return None
        ((name, params),) = self.arm["network"].items()
        module = registry.get("networks", name).load()
        return module.grid(shape, **params) if hasattr(module, "grid") else None

    def network(self, in_channels, out_channels):
        """The arm's network, initialised on the CPU so that every device starts from the same weights."""
        ((name, params),) = self.arm["network"].items()
        self.networks += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, f"network {self.networks}"))
            net = registry.get("networks", name).load().build(in_channels, out_channels, self.A.domain[1:], **params)
        if self.networks <= len(self.start):
            net.load_state_dict(self.start[self.networks - 1])
        self.made.append(net.to(self.device, memory_format=torch.channels_last))  # a tenth to a fifth less time per step
        return self.made[-1]

    def next_stage(self):
        self.stage += 1
        stage = self.stages[self.stage]
        self.method.enter(stage)
        self.optimiser = None
        if stage.groups:
            make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[stage.optimiser]
            more = {"capturable": True} if self.device.type == "cuda" and stage.optimiser == "adam" else {}
            self.optimiser = make(stage.groups, fused=True, **more)
        self.rates = self._rates() if self.optimiser and self.arm.get("schedule") == "cosine" else []
        self.advance = partial(self._method_step, self.optimiser, stage.clip)
        if self.device.type == "cuda" and self.optimiser:
            self.advance = Recorded(self.advance, self.method.form, self.generators, self.say)
        self.stage_end = sum(s.steps for s in self.stages[: self.stage + 1])

    def _rates(self):
        """[(rate of a parameter group at the start, where that of a step lies)]: on a GPU a tensor, which a recorded step reads."""
        on_gpu = self.device.type == "cuda"
        return [(g["lr"], torch.tensor(g["lr"], device=self.device) if on_gpu else None) for g in self.optimiser.param_groups]

    def _cool(self, stage):
        """Set the rates of this step: half a cosine over the steps of a stage (Loshchilov and Hutter, ICLR 2017, without restarts)."""
        left = (self.stage_end - self.k) / stage.steps
        for group, (start, place) in zip(self.optimiser.param_groups, self.rates, strict=True):
            rate = start * 0.5 * (1 - math.cos(math.pi * left))
            group["lr"] = rate if place is None else place.fill_(rate)

    def _method_step(self, optimiser, clip, k):
        half = self.arm.get("precision") == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False) if half else contextlib.nullcontext():
            return self.method.step(k, optimiser, clip)

    def step(self):
        """One optimiser step and everything that watches it. No host synchronisation."""
        stage = self.stages[self.stage]
        if self.rates:
            self._cool(stage)
        loss, image = self.advance(self.k)
        if stage.scored:
            with torch.no_grad():
                self.track(image, loss)
        self.k += 1
        return loss

    def track(self, image, loss):
        if self.last is None:
            self.average = torch.zeros_like(image)
            self.first_scored = self.k
            for rule in (self.rule, *self.watched.values()):
                rule.start(image, image)
                rule.to(self.device)
        output, decay = image, self.arm["average"]
        if decay:
            self.average.lerp_(image, 1 - decay)
            output = self.average / (1 - decay ** (self.k - self.first_scored + 1))
        held = self.held[0].residual(image * self.scale, self.held[1]) if self.held else None
        for rule in (self.rule, *self.watched.values()):
            rule.update(self.k - self.first_scored, image, output, loss, held)
        if self.k in self.wanted:
            self.snapshots.append((self.k, self._shown(output)))
        self.last = output

    def _shown(self, output):
        """The view of an image, divided by ``view_scale``, in half precision. One scale for both: the view grows with the image."""
        if self.scale == self.view_scale:
            return self.A.view(output).half()
        return (self.A.view(output * self.scale) / self.view_scale).half()

    def chosen(self, rule):
        """The step that a rule has chosen; rules count from the first scored step."""
        return self.first_scored + rule.verdict()[1]

    @property
    def finished(self):
        return self.k >= sum(s.steps for s in self.stages)

    def state(self):
        """All that a checkpoint holds: tensors, numbers and strings only."""
        rules = {"stop": self.rule, **{f"watch {n}": r for n, r in self.watched.items()}}
        return {
            "k": self.k, "stage": self.stage, "seconds": self.seconds, "losses": self.losses, "networks": self.networks,
            "method": self.method.state_dict(), "optimiser": self.optimiser.state_dict() if self.optimiser else None,
            "rules": {n: r.state_dict() for n, r in rules.items()}, "average": self.average, "last": self.last,
            "first_scored": self.first_scored, "snapshots": self.snapshots,
            "generators": {n: g.get_state() for n, g in self.generators.items()},
        }  # fmt: skip

    def load(self, state):
        while self.stage < state["stage"]:
            self.next_stage()
        self.method.load_state_dict(state["method"])
        if self.optimiser:
            self.optimiser.load_state_dict(state["optimiser"])
        for name in ("k", "seconds", "losses", "networks", "first_scored"):
            setattr(self, name, state[name])
        for name in ("average", "last"):  # a checkpoint is read on the CPU
            setattr(self, name, None if state[name] is None else state[name].to(self.device))
        self.snapshots = [(k, view.to(self.device)) for k, view in state["snapshots"]]
        for name, value in state["generators"].items():
            self.rng(name).set_state(value.cpu())
        if self.last is not None:
            for name, rule in (("stop", self.rule), *((f"watch {n}", r) for n, r in self.watched.items())):
                rule.start(self.last, self.last)
                rule.load_state_dict(state["rules"][name])
                rule.to(self.device)


def fit(y, A, arm, seed=0, inputs=None, keeper=None, say=print, start=()):
    """Reconstruct one image: :func:`fitting` from the first step to the last."""
    return together([fitting(y, A, arm, seed, inputs, keeper, say, start)], y.device)[0]


def together(fits, device):
    """The results of several :func:`fitting`, a step of each in turn; on a GPU each has a stream of its own, so that they fill it."""
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in fits]
    results, left, interrupted = [None] * len(fits), list(range(len(fits))), None
    while left:
        for i in tuple(left):
            try:
                with torch.cuda.stream(streams[i]):
                    next(fits[i])
            except StopIteration as end:
                results[i] = end.value
                left.remove(i)
            except Interrupted as error:  # the others save their state as well
                interrupted = error
                left.remove(i)
    if interrupted:
        raise interrupted
    return results


def fitting(y, A, arm, seed=0, inputs=None, keeper=None, say=print, start=()):
    """Reconstruct one image, a step at a time: a generator that pauses after every step and returns a :class:`Result`.

    Args:
        y, A: measurement and operator of one slice (``physics/``), on the device to be used.
        arm: the fully resolved arm (``study.Arm.resolved``).
        inputs: images (parts, H, W) in the scan's units that the method needs.
        keeper: ``resume.Keeper`` or None; asked every ``read_every`` steps, keeps and returns checkpoints.
        say: takes one line of log.
        start: ``Result.networks`` of a neighbouring slice, to start from instead of random weights.

    Raises:
        Diverged: the reason in words. Interrupted: the state is saved, another job may continue.
    """
    for caution in registry.cautions(arm):
        say(f"note: {caution}")
    saved = keeper.load() if keeper else None
    refit, before = (saved["refit"], saved["before"]) if saved else (None, (0.0, 0))  # seconds, iterations of the first fit
    while True:
        stop, iterations = ({"fixed": {}}, refit) if refit else (arm["stop"], arm["iterations"])
        torch.backends.cudnn.allow_tf32 = arm.get("precision") != "single"
        run = Run(y, A, arm, seed, inputs or {}, stop, iterations, start, say)
        if saved:
            run.load(saved["run"])
            say(f"resumed from the checkpoint at iteration {run.k}")
            saved = None
        yield from iterate(run, arm, keeper, say, refit, before)
        if refit or not getattr(run.rule, "refit", False):
            return result_of(run, before)
        refit, before = run.rule.verdict()[1] + 1, (run.seconds, run.k)
        say(f"fitting all samples for the {refit} iterations that the held-out samples chose")


def iterate(run, arm, keeper, say, refit, before):
    """Step until the budget or the stop rule ends the run; pauses after every step."""
    started, spoken, spoken_k = time.monotonic() - run.seconds, time.monotonic(), run.k
    total = sum(s.steps for s in run.stages)
    while not run.finished:
        loss = run.step()
        if run.k == run.stage_end and not run.finished:
            run.next_stage()
        stop = False
        if run.k % arm["read_every"] == 0 or run.finished:  # by number, never by time: the verdict must not depend on the clock
            stop = read(run, float(loss))
        done = stop or run.finished
        run.seconds = time.monotonic() - started
        leaving = keeper is not None and not done and keeper.leaving()
        if leaving or (keeper and not done and keeper.due()):
            keeper.save({"run": run.state(), "refit": refit, "before": before})
        if leaving:
            raise Interrupted(f"saved at iteration {run.k}")
        if done or time.monotonic() - spoken > LOG_SECONDS:
            speed = (run.k - spoken_k) / max(time.monotonic() - spoken, 1e-9)
            left = (total - run.k) / max(speed, 1e-9)
            say(f"step {run.k}/{total}  loss {float(loss):.3e}  {speed:.1f} it/s  eta {left / 60:.1f} min")
            spoken, spoken_k = time.monotonic(), run.k
        if stop:
            return
        yield


def read(run, loss):
    """Keep the loss and ask the stop rule; whether to stop. Here, and for a line of the log, the host waits for the device."""
    run.losses.append((run.k, loss))
    first = run.losses[0][1]
    if loss != loss or abs(loss) > 1e6 * abs(first) + 1e-12:
        raise Diverged(
            f"diverged at iteration {run.k}: the loss is {loss:.3g}, it began at {first:.3g}; lower the learning rate"
        )
    return run.last is not None and run.rule.verdict()[0]


def result_of(run, before):
    seconds, iterations = before[0] + run.seconds, before[1] + run.k
    image, last = run.rule.chosen() * run.scale, run.last * run.scale
    if not bool(torch.isfinite(torch.view_as_real(image) if image.is_complex() else image).all()):
        raise Diverged(f"the image is not finite after {run.k} iterations; lower the learning rate")
    views = [v.cpu().numpy() for _, v in run.snapshots]
    return Result(
        image=image.cpu().numpy(), last=last.cpu().numpy(), iterations=iterations, chosen=run.chosen(run.rule), seconds=seconds,
        scale=run.scale, view_scale=run.view_scale, snapshots=np.stack(views) if views else np.zeros((0, 0, 0), np.float16),
        snapshot_steps=[k for k, _ in run.snapshots], losses=run.losses,
        watched={n: run.chosen(r) for n, r in run.watched.items()}, artefacts=run.method.artefacts(),
        networks=[net.state_dict() for net in run.made],
    )  # fmt: skip


def set_up(device, threads):
    """Same device and threads -> same bits."""
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error" if device == "cpu" else "warn")  # use_deterministic_algorithms imports a compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # all of it is written anyway, which costs a tenth of a step or more
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def borrowed(device, threads):
    """:func:`set_up` for a while; torch's settings are then again what they were."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    found = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        set_up(device, threads)
        yield
    finally:
        torch.set_num_threads(found[0])
        torch.set_deterministic_debug_mode(found[1])
        torch.backends.cudnn.benchmark = found[2]
        torch.utils.deterministic.fill_uninitialized_memory = filled
