"""Stop rules against their definitions and on known curves."""

import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm

from dipline import loop, registry
from dipline.acquire import views
from dipline.loop import plugin_class
from dipline.methods.base import Stage
from dipline.physics import ct, sense
from dipline.physics.base import Operator
from dipline.stopping.base import Rule


def make(name, iterations=500, **params):
    values, problems = registry.check_parameters(registry.get("stopping", name), params)
    assert not problems
    return plugin_class("stopping", name, Rule)(iterations, **values)


class Same(Operator):
    """A x = x, with noise of deviation 1."""

    noise = (1.0, 0.0)

    def __call__(self, x):
        return x


def walk(n, shape=(1, 6, 5), seed=0, complex_=True):
    """A random walk of images: what a rule is fed."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((n, *shape, 2)) * np.linspace(1, 0.05, n)[:, None, None, None, None]
    x = torch.from_numpy(steps.cumsum(0).astype(np.float32))
    return torch.view_as_complex(x) if complex_ else x[..., 0].contiguous()


def feed(rule, images, losses=None, held=None):
    """All images through the rule; the list of (stop, chosen) after every step."""
    rule.start(images[0], images[0])
    said = []
    for k, x in enumerate(images):
        loss = torch.tensor(float(losses[k]) if losses is not None else 1.0)
        rule.update(k, x, x, loss, None if held is None else torch.tensor(float(held[k])))
        said.append(rule.verdict())
    return said


@pytest.mark.parametrize("complex_", [True, False])
def test_wmv_equals_the_definition(complex_):
    """The running sums against the variance over the window, computed anew (1e-10 in float64, float32 here)."""
    images, window = walk(90, complex_=complex_), 12
    rule = make("wmv", window=window, patience=1000)
    seen = []
    rule.judge = lambda value, k, output: seen.append(float(value))
    feed(rule, images)
    for k in range(window - 1, 90):
        w = images[k - window + 1 : k + 1]
        want = float((w - w.mean(0)).abs().square().sum() / window)
        assert seen[k] == pytest.approx(want, rel=2e-5)


def test_wmv_in_float64_is_exact():
    images, window = walk(60).to(torch.complex128), 10
    rule = make("wmv", window=window, patience=1000)
    seen = []
    rule.judge = lambda value, k, output: seen.append(float(value))
    feed(rule, images)
    for k in range(window - 1, 60):
        w = images[k - window + 1 : k + 1]
        assert seen[k] == pytest.approx(float((w - w.mean(0)).abs().square().sum() / window), rel=1e-10)


def test_emv_is_the_weighted_variance():
    images, alpha = walk(50).to(torch.complex128), 0.1
    rule = make("emv", alpha=alpha)
    feed(rule, images)
    w = torch.tensor([alpha * (1 - alpha) ** (49 - t) for t in range(50)], dtype=torch.float64)
    w[0] = (1 - alpha) ** 49
    mean = (w[:, None, None, None] * images).sum(0)
    want = (w * (images - mean).abs().square().sum((1, 2, 3))).sum()
    assert float(rule.variance) == pytest.approx(float(want), rel=1e-10)
    assert torch.allclose(rule.mean, mean)


def test_wmv_finds_the_valley_of_a_bell():
    """Images that settle, rest, and drift again: the rule must choose the rest, and stop after its patience."""
    speed = np.concatenate([np.linspace(1, 0.01, 120), np.full(30, 0.01), np.linspace(0.01, 1, 150)])
    images = torch.from_numpy(np.cumsum(speed)[:, None, None, None] * np.ones((1, 1, 4, 4))).float()
    rule = make("wmv", window=10, patience=60)
    said = feed(rule, images)
    stop = next(k for k, (s, _) in enumerate(said) if s)
    assert 125 <= said[stop][1] <= 152 and stop == said[stop][1] + 60
    assert torch.equal(rule.chosen(), images[said[stop][1]])
    assert said[-1][1] == said[stop][1], "a confirmed minimum is frozen"


def test_min_iterations_skips_a_false_minimum():
    speed = np.concatenate([np.full(40, 0.001), np.linspace(1, 0.01, 160), np.linspace(0.01, 1, 100)])
    images = torch.from_numpy(np.cumsum(speed)[:, None, None, None] * np.ones((1, 1, 4, 4))).float()
    assert feed(make("wmv", window=10, patience=80), images)[-1][1] < 40
    assert 180 < feed(make("wmv", window=10, patience=80, min_iterations=100), images)[-1][1] < 215


def test_fixed_hands_over_the_last():
    images = walk(20)
    rule = make("fixed")
    assert feed(rule, images)[-1] == (False, 19)
    assert torch.equal(rule.chosen(), images[19])


def test_min_loss_hands_over_the_best_and_ignores_nan():
    images, losses = walk(20), np.linspace(10, 1, 20)
    losses[7], losses[9] = 0.1, np.nan
    rule = make("min_loss", iterations=20)
    assert feed(rule, images, losses)[-1] == (False, 7)
    assert torch.equal(rule.chosen(), images[7])


def test_holdout_stops_where_the_held_error_rises():
    held = np.concatenate([np.linspace(10, 1, 100), np.linspace(1, 5, 200)])
    rule = make("holdout", smooth=5, patience=50)
    said = feed(rule, walk(300), held=held)
    stop = next(k for k, (s, _) in enumerate(said) if s)
    assert 98 <= said[stop][1] <= 104 and stop == said[stop][1] + 50


def test_holdout_splits_outside_the_centre_and_by_seed():
    A, y, _ = disc_problem()
    rule = make("holdout", fraction=0.2)
    split = lambda seed: rule.split(A, y, torch.Generator().manual_seed(seed))  # noqa: E731
    keep = split(1)
    assert torch.equal(keep, split(1)) and not torch.equal(keep, split(2))
    assert int((~keep).sum()) == round(0.2 * y.shape[-1]) and bool(A.spare()[~keep].all())


@pytest.mark.parametrize("hand_over", ["output", "mean"])
def test_emv_hands_over_what_it_is_told_to(hand_over):
    images = walk(30)
    rule = make("emv", alpha=0.3, patience=1000, min_iterations=1, hand_over=hand_over)
    rule.start(images[0], 2 * images[0])
    wanted = []
    for k, x in enumerate(images):
        rule.update(k, x, 2 * x, torch.tensor(1.0), None)
        wanted.append(2 * x if hand_over == "output" else rule.mean.clone())
    assert torch.equal(rule.chosen(), wanted[rule.verdict()[1]]) and rule.verdict()[1] > 3


def test_emv_stopped_is_of_the_same_output_as_last_and_peak():
    """`stop: emv` handed over its own running mean, while the last and the peak image were single iterates.
    The table showed stopped images better than the oracle's."""
    A, y, _ = disc_problem()
    arm = small_arm("vanilla", 12, network="skip", stop={"emv": {"min_iterations": 1}})
    run, seen = loop.Run(y, A, arm, 0, {}, arm["stop"], 12), []
    while not run.finished:
        run.step()
        seen.append(run.last)
    assert torch.equal(run.rule.chosen(), seen[run.rule.verdict()[1]])


def test_holdout_says_why_nothing_can_be_left_out():
    """Of a single view the message said that it lay in a calibration centre, which CT does not have."""
    rule, rng = make("holdout"), torch.Generator()
    with pytest.raises(ValueError, match="nothing can be left out of a measurement of one view or column; use another rule"):
        rule.split(ct.Tomography(views.geometry((8, 8), 1.0, 1)), torch.zeros(1, 12), rng)
    A = sense.Sense(torch.ones(1, 2, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool))
    with pytest.raises(ValueError, match="every sample lies in the calibration centre"):
        rule.split(A, torch.zeros(2, 8, 8), rng)


@pytest.mark.parametrize("stop", [{"wmv": {"window": 8, "patience": 9}}, {"emv": {"min_iterations": 8, "patience": 9}}], ids=["wmv", "emv"])
def test_rules_count_from_the_first_scored_step(monkeypatch, stop):
    """Rules took k to start at 0: after an unscored stage that was longer than its window, wmv judged a window of nothing but zeros.
    It chose the first scored step at once, with a variance that no later step could fall below."""
    from dipline.methods.vanilla import Vanilla

    stages = lambda self: [  # noqa: E731
        Stage("embed", 21, [{"params": self.net.parameters(), "lr": 1e-3}], scored=False),
        Stage("fit", 30, [{"params": self.net.parameters(), "lr": 1e-3}]),
    ]
    monkeypatch.setattr(Vanilla, "stages", stages)
    A, y, _ = disc_problem()
    arm = small_arm("vanilla", 30, network="skip", stop=stop, watch=[stop])
    run, shown, judged = loop.Run(y, A, arm, 0, {}, arm["stop"], 30), {}, []
    judge = run.rule.judge
    run.rule.judge = lambda value, k, output: (judged.append(k), judge(value, k, output))
    while not run.finished:
        run.step()
        if run.k == run.stage_end and not run.finished:
            run.next_stage()
        shown[run.k - 1] = run.last
    assert judged == list(range(30)) and [k for k, _ in run.snapshots] == [21 + k for k in loop.snapshot_steps(30, 8)]
    result = loop.result_of(run, (0.0, 0))
    assert result.chosen >= 21 + 7 and result.watched == {next(iter(stop)): result.chosen}, "absolute in what is reported"
    assert np.array_equal(result.image, shown[result.chosen].numpy() * np.float32(run.scale))


def test_the_held_out_error_is_that_of_samples_the_fit_never_sees():
    A, y, _ = disc_problem()
    arm = small_arm("vanilla", 5, network="skip", stop={"holdout": {"fraction": 0.3, "min_iterations": 1, "smooth": 1, "patience": 2}})
    run, seen = loop.Run(y, A, arm, 0, {}, arm["stop"], 5), []
    run.rule.update = lambda k, image, output, loss, held: seen.append((image * run.scale, float(loss), float(held)))
    run.step()
    image, loss, held = seen[0]
    keep = run.rule.split(A, y, torch.Generator().manual_seed(loop.seed_of(0, "held-out samples")))
    error = (A(image) - y).abs().square()
    assert held == pytest.approx(float(error[..., ~keep].sum()), rel=1e-4)
    assert loss == pytest.approx(float(error[..., keep].sum()) / run.scale**2, rel=1e-4)
    assert not set(run.held[0].index.tolist()) & set(run.A.index.tolist())


def test_rules_need_no_host_synchronisation(monkeypatch):
    """update() runs on the device: it must not read a tensor's value."""
    for name in ("item", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *a, name=name: pytest.fail(f"reads a tensor through {name}"))
    images = walk(30)
    for name in registry.plugins("stopping"):
        rule = make(name, **({"window": 5, "patience": 9} if name in ("wmv", "sv_es") else {}))
        rule.measured(Same(), images[0], 1.0)
        rule.start(images[0], images[0])
        for k, x in enumerate(images):
            rule.update(k, x, x, torch.tensor(1.0), torch.tensor(1.0))
