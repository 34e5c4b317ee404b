"""Sub-networks: oes, imp and prune_at_init against formulas of their own; masks that are re-used; what a study may say of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Stopper, disc_problem, small_arm
from test_blocks import block, measurement  # noqa: F401
from test_study import changed, only

from dipline import blocks, loop, registry, store
from dipline import study as studies
from dipline.methods.subnetwork import top


@pytest.fixture(scope="module")
def problem():
    loop.set_up("cpu", 1)
    return disc_problem()


def run_of(problem, method, steps=20, seed=0, mask=None, params=None):
    A, y, _ = problem
    arm = small_arm(method, steps, params=params or {})
    return loop.Run(y, A, arm, seed, {} if mask is None else {"mask": mask}, arm["stop"], steps)


def driven(run, to=None):
    """The run after its last step, or after so many; stages change as in the loop."""
    while not run.finished and (to is None or run.k < to):
        run.step()
        if run.k == run.stage_end and not run.finished:
            run.next_stage()
    return run.method


def logits_of(method, seed=0):
    """Some that differ."""
    with torch.no_grad():
        method.logits.copy_(torch.randn(method.logits.shape, generator=torch.Generator().manual_seed(seed)))
    return method.logits


# ---------------------------------------------------------------- the mask


@pytest.mark.parametrize("count", [0, 1, 40, 97, 100])
def test_top_keeps_the_largest_and_draws_among_equal_ones(count):
    scores = torch.randn(100, generator=torch.Generator().manual_seed(1))
    kept = top(scores, count, torch.Generator().manual_seed(2))
    assert set(kept.nonzero()[:, 0].tolist()) == set(np.argsort(-scores.numpy())[:count].tolist())
    levels = torch.arange(100.0).div(10).floor()  # ten of each
    some = torch.stack([top(levels, 15, torch.Generator().manual_seed(s)) for s in range(300)])
    assert (some.sum(1) == 15).all() and (some[:, 90:] == 1).all() and not some[:, :80].any()
    assert some[:, 80:90].mean(0).numpy() == pytest.approx(0.5, abs=0.13), "4.5 standard deviations"


@pytest.mark.parametrize("method, sparsity", [("oes", 0.05), ("oes", 0.37), ("prune_at_init", 0.05), ("prune_at_init", 0.37)])
def test_the_mask_keeps_as_many_as_are_asked_for(problem, method, sparsity):
    method = driven(run_of(problem, method, params={"sparsity": sparsity}))
    n = sum(p.numel() for p in method.net.parameters())
    mask = method.artefacts()["mask"]
    assert mask.shape == (n,) and set(mask.tolist()) == {0, 1} and int(mask.sum()) == round(sparsity * n)


def test_oes_keeps_the_most_likely_of_all_weights_jointly(problem):
    run = run_of(problem, "oes", 20, params={"mask_share": 0.5, "mask_lr": 0.1})
    driven(run, 10)
    method = run.method
    least = method.logits[method.mask == 1].min()
    assert float(method.logits.detach().std()) > 0.01 and least >= method.logits[method.mask == 0].max()
    assert [s.steps for s in run.stages] == [10, 10] and [s.scored for s in run.stages] == [False, True]


def test_oes_prefers_weights_that_the_image_needs(problem):
    """After mask learning the sub-network fits better than one of as many weights that were drawn, both untrained."""
    run = run_of(problem, "oes", 81, params={"mask_share": 0.988, "mask_lr": 0.1, "sparsity": 0.5, "lam": 0.0})
    method = driven(run, 80)
    with torch.no_grad():
        start = method.weights()  # pruned
        learnt = float(method.loss(80)[0])
        drawn = run_of(problem, "prune_at_init", params={"sparsity": 0.5, "criterion": "random"}).method
        assert learnt < 0.9 * float(drawn.loss(0)[0])
    assert torch.equal(start == 0, (method.mask == 0) | (start == 0))


# ---------------------------------------------------------------- the first stage's loss


def test_kl_is_its_formula_and_so_is_its_gradient(problem):
    method = run_of(problem, "oes", params={"sparsity": 0.05}).method
    logits = logits_of(method)
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    want = (p * np.log(p / 0.05) + (1 - p) * np.log((1 - p) / 0.95)).sum()
    kl = method.divergence()
    assert float(kl.detach()) == pytest.approx(want, rel=1e-5)
    (gradient,) = torch.autograd.grad(kl, logits)
    by_hand = p * (1 - p) * (np.log(p / (1 - p)) - np.log(0.05 / 0.95))  # dp/dℓ · d KL/dp
    assert gradient.numpy() == pytest.approx(by_hand, abs=1e-5)
    with torch.no_grad():
        logits.fill_(float(torch.logit(torch.tensor(0.05))))
    assert abs(float(method.divergence().detach())) / len(p) < 1e-6, "none at p = s"
    with torch.no_grad():
        logits.zero_()
    assert float(method.divergence().detach()) / len(p) == pytest.approx(0.83, abs=0.005), "methods of the paper: 0.83 nats at p = 1/2"


def test_samples_of_the_mask_are_bernoulli_when_rounded_and_have_nearly_its_mean(problem):
    method = run_of(problem, "oes", params={"temperature": 0.2}).method
    for p in (0.05, 0.3, 0.5, 0.9):
        with torch.no_grad():
            method.logits.fill_(float(torch.logit(torch.tensor(p))))
            draws = torch.cat([method.sample() for _ in range(20)])
        assert float(draws.min()) >= 0 and float(draws.max()) <= 1
        spread = (p * (1 - p) / len(draws)) ** 0.5
        assert float((draws > 0.5).float().mean()) == pytest.approx(p, abs=4.5 * spread), "exactly Ber(p)"
        assert float(draws.mean()) == pytest.approx(p, abs=0.03), "relaxed at T = 0.2"


def test_the_relaxed_mask_is_the_softmax_of_two_gumbels(problem):
    """One logistic draw has the law of the difference of two Gumbel draws: the same quantiles."""
    method = run_of(problem, "oes").method
    with torch.no_grad():
        method.logits.fill_(-0.7)
        ours = torch.cat([method.sample() for _ in range(20)])
    rng = np.random.default_rng(0)
    g = rng.gumbel(size=(2, len(ours)))
    log_p = -np.log1p(np.exp(np.array([0.7, -0.7])))  # log σ(ℓ), log σ(−ℓ)
    e = np.exp((log_p[:, None] + g - (log_p[:, None] + g).max(0)) / 0.2)
    theirs = e[0] / e.sum(0)
    share = (0.02, 0.5, 0.98)
    assert [float((ours < t).float().mean()) for t in share] == pytest.approx([(theirs < t).mean() for t in share], abs=0.015)


def test_the_first_stage_trains_the_logits_of_its_equation_alone(problem):
    """Loss and gradient of the soft masked network, built again with the mask multiplied into copied weights."""
    run = run_of(problem, "oes", params={"lam": 0.7, "sparsity": 0.1})
    method, A = run.method, run.A
    logits = logits_of(method)
    before = method.weights()
    state = method.rng.get_state()
    loss, _ = method.loss(0)
    (ours,) = torch.autograd.grad(loss, logits)
    method.rng.set_state(state)
    u = torch.rand(logits.shape, generator=method.rng).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((logits.detach() + u.log() - (1 - u).log()) / 0.2).requires_grad_()
    state = {}
    for name, p in method.net.named_parameters():
        taken = sum(v.numel() for v in state.values())
        state[name] = p.detach() * soft[taken : taken + p.numel()].reshape(p.shape)
    x = method.as_image(torch.func.functional_call(method.net, state, (method.z,)))
    data = (A(x) - method.y).abs().square().sum() / method.y.abs().square().sum()
    p = torch.sigmoid(logits.detach())
    kl = (p * (p / 0.1).log() + (1 - p) * ((1 - p) / 0.9).log()).mean()
    assert float(loss.detach()) == pytest.approx(float((data + 0.7 * kl).detach()), rel=1e-4)
    (of_soft,) = torch.autograd.grad(data, soft)
    s = soft.detach()
    theirs = of_soft * s * (1 - s) / 0.2 + 0.7 / len(p) * p * (1 - p) * (logits.detach() - np.log(0.1 / 0.9))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    run.step()
    assert torch.equal(method.weights(), before) and not any(p.requires_grad for p in method.net.parameters())


# ---------------------------------------------------------------- training what is left


@pytest.mark.parametrize("method", ["oes", "imp", "prune_at_init"])
def test_pruned_weights_stay_exactly_zero_and_the_others_start_where_they_were_drawn(problem, method):
    run = run_of(problem, method, 30, params={"rounds": 2} if method == "imp" else {"sparsity": 0.3})
    start = run_of(problem, "imp").method.start  # the same network and seed
    driven(run, 30 - run.stages[-1].steps)
    mask = run.method.mask.clone()
    assert 0 < mask.mean() < 0.7 and torch.equal(run.method.weights(), start * mask)
    driven(run)
    after = run.method.weights()
    assert not after[mask == 0].any() and torch.equal(run.method.mask, mask)
    if method != "oes":  # so few steps may leave a network without output, of which the last bias alone learns
        assert float((after != start)[mask == 1].float().mean()) > 0.5, "they learn"


def test_the_gradient_of_the_second_stage_is_the_plain_one_times_the_mask(problem):
    """Without norms: where a mask leaves a channel constant, the gradient through its batch norm is rounding times 1/√eps, scale by scale;
    and gradients, not steps, as Adam makes full steps of such."""
    A, y, _ = problem
    arm = small_arm("prune_at_init", 3, params={"sparsity": 0.3, "criterion": "random"})
    arm["network"]["skip"]["norm"] = "none"
    run = loop.Run(y, A, arm, 0, {}, arm["stop"], 3)
    method, mask = run.method, run.method.mask
    loss, _ = method.loss(0)
    ours = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(method.net.parameters()))])
    leaf = method.weights().requires_grad_()
    x = method.as_image(torch.func.functional_call(method.net, {n: v for n, _, v in method.parts(leaf)}, (method.z,)))
    want = (run.A(x) - method.y).abs().square().sum() / method.y.abs().square().sum()
    (plain,) = torch.autograd.grad(want, leaf)
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert float((ours - plain * mask).norm() / (plain * mask).norm()) < 1e-4
    assert not ours[mask == 0].any() and float(plain[mask == 0].norm()) > 1e-3 * float(plain.norm()), "the mask takes some away"


def test_imp_keeps_a_power_of_what_each_round_keeps_and_prunes_the_smallest(problem):
    run = run_of(problem, "imp", 15 * 2, params={"rounds": 14})
    n = len(run.method.mask)
    assert [s.steps for s in run.stages] == [2] * 15 and [s.scored for s in run.stages] == [False] * 14 + [True]
    for left in range(1, 15):
        mask = run.method.mask.clone()
        run.step()
        run.step()
        before = run.method.weights().abs()
        run.next_stage()
        kept = run.method.mask
        assert int(kept.sum()) == round(0.8**left * n) and not kept[mask == 0].any(), "what is pruned stays so"
        assert before[kept == 1].min() >= before[(kept == 0) & (mask == 1)].max()
        assert torch.equal(run.method.weights(), run.method.start * kept), "rewound"
    assert float(kept.mean()) == pytest.approx(0.8**14, abs=1 / n)


def test_imp_of_fewer_iterations_than_rounds_prunes_as_much(problem):
    for steps in (1, 5):
        run = run_of(problem, "imp", steps, params={"rounds": 14})
        assert sum(s.steps for s in run.stages) == steps and run.stages[-1].scored
        method = driven(run)
        assert int(method.mask.sum()) == round(0.8**14 * len(method.mask))


def test_pruning_at_initialisation_keeps_the_largest_or_any(problem):
    large, some, others = (
        run_of(problem, "prune_at_init", seed=s, params={"criterion": c, "sparsity": 0.3}).method
        for c, s in (("magnitude", 0), ("random", 0), ("random", 1))
    )
    start = run_of(problem, "imp").method.start.abs()
    assert start[large.mask == 1].min() >= start[large.mask == 0].max()
    assert not torch.equal(some.mask, others.mask) and int(some.mask.sum()) == int(large.mask.sum())
    both = float((some.mask * large.mask).sum() / large.mask.sum())
    assert both == pytest.approx(0.3, abs=0.06), "no more in common than by chance"


STAGES = [("oes", 20, 5), ("oes", 20, 12), ("oes", 20, 15), ("imp", 9, 2), ("imp", 9, 4), ("imp", 9, 8)]


@pytest.mark.parametrize("method, steps, after", STAGES)
def test_promise_3_resumed_in_any_stage(problem, tmp_path, method, steps, after):
    """Also where a stage has just begun: 12 of 20 steps are mask learning."""
    A, y, _ = problem
    arm = small_arm(method, steps, params={"input_noise": 0.03} | ({"rounds": 2} if method == "imp" else {}))
    fit = lambda keeper: loop.fit(y, A, arm, 0, {}, keeper, lambda line: None)  # noqa: E731
    straight = fit(None)
    with pytest.raises(loop.Interrupted):
        fit(Stopper(tmp_path / "c.pt", after))
    resumed = fit(Stopper(tmp_path / "c.pt", 10**6))
    assert (resumed.image == straight.image).all() and torch.equal(resumed.artefacts["mask"], straight.artefacts["mask"])


# ---------------------------------------------------------------- a mask is re-used


def test_a_mask_that_is_given_is_trained_at_once_and_gives_the_same_image(problem):
    A, y, _ = problem
    first = loop.fit(y, A, small_arm("oes", 20, params={"mask_share": 0.6}), say=lambda line: None)
    run = run_of(problem, "oes", 8, mask=first.artefacts["mask"])
    assert [(s.name, s.steps) for s in run.stages] == [("fit", 8)]
    assert torch.equal(driven(run).artefacts()["mask"], first.artefacts["mask"])
    second = loop.fit(y, A, small_arm("oes", 8), 0, {"mask": first.artefacts["mask"]}, say=lambda line: None)
    assert (second.image == first.image).all() and second.iterations == 8


def test_in_python_a_mask_may_be_an_array(problem):
    A, y, _ = problem
    arm = {"method": "oes", "iterations": 2, "network": {"skip": {"widths": [8], "skip_widths": [0]}}}
    n = len(blocks.reconstruct(y, A, arm).artefacts["mask"])
    mask = np.arange(n) % 3 == 0
    assert (blocks.reconstruct(y, A, arm, inputs={"mask": mask}).artefacts["mask"].numpy() == mask).all()
    with pytest.raises(ValueError, match=rf"inputs.mask: found a mask of {n - 1:,} weights, allowed: {n:,}, as many as the network has"):
        blocks.reconstruct(y, A, arm, inputs={"mask": mask[1:]})


NET = "network: &n {skip: {widths: [8, 8], skip_widths: [2, 2]}}"
SOURCE = f"source: {{method: imp, {NET}, datasets: [brain], iterations: 5, params: {{rounds: 2}}}}"


def arms(mask, more="", source=SOURCE):
    return f"arms: {{{source}, x: {{method: oes, network: *n, datasets: [brain], {more} inputs: {{mask: {mask}}}}}}}"


@pytest.mark.parametrize(
    "mask, more, source, said",
    [
        ("{arm: source, volume: patient_001}", "", SOURCE, None),
        ("{arm: source, dataset: t1}", "", SOURCE.replace("[brain]", "[brain, t1]"), None),
        ("{arm: tv}", "", SOURCE, ".arm: tv (tv) makes no mask, allowed: an arm with method imp, oes, prune_at_init"),
        ("{arm: sorce}", "", SOURCE, '.arm: no arm "sorce"; did you mean "source"?'),
        ("{dataset: t1}", "", SOURCE, ": found dataset, allowed: an arm (with or without its dataset), or the file of a result"),
        ("{}", "", SOURCE, ": found nothing, allowed: an arm"),
        ("{arm: source, file: a.h5}", "", SOURCE, ": found arm and file, allowed: an arm"),
        ("{arm: source}", "seeds: [0, 3],", SOURCE, ".arm: source has no seed 3, allowed: [0, 3], the seeds of x: a mask is for the start"),
        ("{arm: source}", "", SOURCE.replace("[8, 8]", "[8, 9]"), None),  # the anchor gives x the same one
        (
            "{arm: source}", "per_acquisition: {R4: {network: {skip: {widths: [8, 16]}}}},", SOURCE,
            ".arm: source has widths [8, 8], allowed: [8, 16], as x has: a mask is made for one network",
        ),
        ("{arm: source}", "", SOURCE.replace("rounds: 2", "rounds: 2, input: zero_filled"),
         ".arm: source has input_channels 'as many as the image', allowed: 32, as x has"),
        ("{file: gone.h5}", "", SOURCE, '.file: no such file or folder "gone.h5"; correct the path'),
    ],
)  # fmt: skip
def test_promise_6_masks_of_other_arms(mask, more, source, said):
    text = arms(mask, more, source)
    if said is None:
        studies.load(changed(text))
    else:
        assert only(text).startswith(f"arms.x.inputs.mask{said}")


@pytest.mark.parametrize("method", ["oes", "imp"])
def test_settings_that_a_mask_forbids(method):
    key = "arms: {x: {method: %s, datasets: [brain], %s}}"
    assert only(key % (method, "stop: {holdout: {refit: true}}")).startswith(
        "arms.x.stop.holdout.refit: found true, allowed: false: the steps that it chooses are those of the"
    )
    assert "serial or joint: a mask is for a network's random start" in only(key % (method, "block: {slices: 2, mode: chain}"))
    studies.load(changed(key % (method, "stop: holdout, block: {slices: 2, mode: joint}")))


def mask_file(folder, measurement, method="oes", seed=1):  # noqa: F811
    """A result of slices 0 and 2 with masks, as a job writes it."""
    block(measurement, folder, [0, 2], small_arm(method, 5), seed)
    return folder / "r.h5"


def test_promise_6_masks_in_files(tmp_path, measurement, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    mask_file(tmp_path, measurement).rename("m.h5")
    mask_file(tmp_path, measurement, "tv").rename("tv.h5")
    Path("text.h5").write_text("no HDF5")
    small = "arms: {x: {method: oes, datasets: [brain], seeds: %s, network: {skip: {widths: [8, 8], skip_widths: %s, "
    small += "upsampling: nearest}}, inputs: {mask: %s}}}"
    good = ("[1]", "[2, 2]", "{file: m.h5, slice: 2}")
    studies.load(changed(small % good))
    key, makers = "arms.x.inputs.mask", "an arm with method imp, oes, prune_at_init"
    for seeds, skips, mask, said in (
        (*good[:2], "{file: m.h5, slice: 1}", '.slice: found 1, allowed: 0, 2, of which "m.h5" holds a mask'),
        (*good[:2], "{file: m.h5}", '.slice: found same, allowed: 0, 2, of which "m.h5" holds a mask'),
        ("[1, 0]", *good[1:], '.file: "m.h5" is of seed 1, but x runs with seed 0; give the arm seeds: [1], or one arm for each seed'),
        (
            "[1]", "[0, 2]", good[2],
            '.file: "m.h5" was made with skip_widths [2, 2], allowed: [0, 2], as x has: a mask is made for one network',
        ),
        (*good[:2], "{file: tv.h5, slice: 0}", f'.file: "tv.h5" holds no mask, allowed: the result of {makers}'),
        (*good[:2], "{file: text.h5, slice: 0}", f'.file: "text.h5" is no result, allowed: a file of recon/ that {makers} wrote'),
        (*good[:2], f"{{file: {measurement}, slice: 0}}", f'.file: "{measurement}" is no result, allowed: a file of recon/ that an arm …'),
    ):  # fmt: skip
        found = only(small % (seeds, skips, mask))
        assert found.startswith(key + said[:-1]) if said.endswith("…") else found == key + said


def test_a_job_takes_the_mask_of_a_result(tmp_path, measurement):  # noqa: F811
    """Of the slice that is named, or of its own; of another network, a reason that names the file."""
    file = mask_file(tmp_path / "a", measurement)
    masks = {s: content["artefact_mask"] for s, content in store.read(file)[1].items()}
    given = {"mask": {"kind": "recon", "file": str(file), "slice": "same"}}
    taken = block(measurement, tmp_path / "b", [0, 2], small_arm("oes", 2), 1, given)[1]
    assert (taken[0]["artefact_mask"] == masks[0]).all() and (taken[2]["artefact_mask"] == masks[2]).all()
    assert (masks[0] != masks[2]).any() and taken[0]["iterations"] == 2
    given["mask"]["slice"] = 2
    head, other = block(measurement, tmp_path / "c", [1], small_arm("oes", 2), 1, given)
    assert (other[1]["artefact_mask"] == masks[2]).all() and str(file) in head["provenance"]["inputs"]
    arm = small_arm("oes", 2)
    arm["network"]["skip"] |= {"widths": [8, 9]}
    n = len(masks[2])
    lost = block(measurement, tmp_path / "d", [1], arm, 1, given)[1][1]
    assert lost["status"] == "failed" and lost["reason"].startswith(f"{file}: inputs.mask: found a mask of {n:,} weights, allowed: ")
    given["mask"] |= {"file": str(mask_file(tmp_path / "tv", measurement, "tv"))}
    lost = block(measurement, tmp_path / "e", [1], small_arm("oes", 2), 1, given)[1][1]
    assert lost["reason"].endswith("tv/r.h5: slice 2 holds no mask; name a result of a method that makes one")


@pytest.mark.parametrize("method", [m for m, p in registry.plugins("methods").items() if p.get("ARTEFACTS") and not p.get("TASKS")])
def test_methods_keep_what_they_say(problem, method):
    assert set(driven(run_of(problem, method, 3)).artefacts()) == set(registry.get("methods", method).get("ARTEFACTS"))
