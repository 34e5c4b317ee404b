"""NeRP and its coordinate network: features and first weights of their equations, the prior embedded, then fitted from there."""

import math

import numpy as np
import pytest
import torch
from problems import Stopper, disc_problem, small_arm

from dipline import loop, registry
from dipline.networks import mlp
from dipline.trial import checked

ONE = registry.check_parameters(registry.get("networks", "mlp"), {})[0]


@pytest.fixture(scope="module")
def problem():
    loop.set_up("cpu", 1)
    return disc_problem()


def arm(**more):
    return small_arm("nerp", **{"iterations": 60, "params": {"lr": 1e-3, "prior_lr": 1e-3}} | more)


def fit(problem, arm, prior=None, keeper=None):
    return loop.fit(problem[1], problem[0], arm, 0, {} if prior is None else {"prior": prior}, keeper, lambda line: None)


def test_published_number_of_parameters():
    assert sum(p.numel() for p in mlp.build(2, 1, (8, 8), **ONE).parameters()) == 526_337


def test_features_are_those_of_the_equation():
    net = mlp.build(2, 1, (3, 4), **ONE | {"frequencies": 5})
    z = torch.rand(1, 2, 3, 4)
    B, place = net.B.double().numpy(), z[0, :, 1, 2].double().numpy()
    angles = [2 * math.pi * float(b @ place) for b in B]
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    assert np.allclose(net.features(z)[1 * 4 + 2], expected, atol=1e-4)


def test_features_and_weights_have_their_published_spread():
    torch.manual_seed(0)
    net = mlp.build(2, 1, (8, 8), **ONE)
    assert float(net.B.std()) == pytest.approx(4, rel=0.1)
    first, second = net.layers[0].weight, net.layers[1].weight
    assert 0.9 / 512 < float(first.detach().abs().max()) <= 1 / 512
    assert 0.99 * math.sqrt(6 / 256) / 30 < float(second.detach().abs().max()) <= math.sqrt(6 / 256) / 30


def test_layers_are_sines_and_the_last_is_linear():
    net = mlp.build(2, 3, (2, 2), **ONE | {"widths": [4], "frequencies": 3})
    z, (a, b) = torch.rand(1, 2, 2, 2), net.layers
    with torch.no_grad():
        expected = torch.sin(30 * (net.features(z) @ a.weight.T + a.bias)) @ b.weight.T + b.bias
        assert torch.allclose(net(z)[0, :, 1, 0], expected[2], atol=1e-5)


def test_places_are_from_0_to_1(problem):
    z = loop.Run(problem[1], problem[0], arm(), 0, {}, {"fixed": {}}, 4).method.z
    assert z.shape == (1, 2, 32, 32) and z[0, :, 0, 0].tolist() == [0, 0] and z[0, :, 31, 0].tolist() == [1, 0]


def test_the_first_stage_learns_the_prior_alone(problem):
    """Its loss is that of the prior, whatever the measurement; weight decay is its own; it is not scored."""
    A, y, truth = problem
    prior = torch.from_numpy(truth)[None] + 0j
    run = loop.Run(y, A, arm(iterations=400), 0, {"prior": prior}, {"fixed": {}}, 400)
    assert [(s.name, s.steps, s.scored) for s in run.stages] == [("prior", 200, False), ("fit", 200, True)]
    assert run.stages[0].groups[0]["weight_decay"] == 1e-4 and "weight_decay" not in run.stages[1].groups[0]
    net = run.method.net
    image = run.method.as_image(net(run.method.z))
    target = torch.polar(prior.abs() / A.scale_of(prior), run.method.problem.x0.angle())
    assert float(run.method.loss(0)[0]) == pytest.approx(float((image - target).abs().square().mean() / 2), rel=1e-5)
    while run.k < 200:
        run.step()
    learnt = run.method.as_image(net(run.method.z)).detach()
    assert float((learnt - target).abs().square().sum() / target.abs().square().sum()) < 0.05 and run.last is None
    B = net.B.clone()
    run.next_stage()
    assert float(run.method.loss(200)[0]) == pytest.approx(float(run.method.misfit(learnt)), rel=1e-4)
    assert run.method.net is net and torch.equal(net.B, B), "the same network and features"


def test_a_prior_of_the_patient_helps(problem):
    """The prior is the truth without one disc and with another contrast."""
    truth = problem[2]
    prior = torch.from_numpy(np.sqrt(truth))[None] + 0j
    error = lambda result: float(((np.abs(result.image[0]) - truth) ** 2).sum())  # noqa: E731
    given = arm(iterations=400, params={"lr": 3e-4, "prior_lr": 1e-3})
    assert error(fit(problem, given, prior)) < 0.8 * error(fit(problem, given | {"iterations": 200}))


def test_learning_rates_of_the_paper(problem):
    A, y, truth = problem
    plain = small_arm("nerp", iterations=10)
    rate = lambda given: loop.Run(y, A, plain, 0, given, {"fixed": {}}, 10).stages[-1].groups[0]["lr"]  # noqa: E731
    assert rate({}) == 1e-4 and rate({"prior": torch.from_numpy(truth)[None] + 0j}) == 1e-5


@pytest.mark.parametrize("after", [7, 30, 41])
def test_promise_3_resumed_in_any_stage(problem, tmp_path, after):
    prior = torch.from_numpy(problem[2])[None] + 0j
    straight = fit(problem, arm(), prior)
    with pytest.raises(loop.Interrupted):
        fit(problem, arm(), prior, Stopper(tmp_path / "c.pt", after))
    resumed = fit(problem, arm(), prior, Stopper(tmp_path / "c.pt", 10**6))
    assert (resumed.image == straight.image).all()


def test_a_trial_without_a_prior_is_no_fault():
    assert checked({"method": "nerp"}, "ct")["method"] == "nerp"
