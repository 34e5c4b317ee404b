"""Self-validation: the auto-encoder's error of every iterate, its training, the stop."""

import copy

import numpy as np
import pytest
import torch
from test_stopping import make, walk

from dipline.stopping import sv_es

SMALL = {"window": 8, "batch": 3, "patience": 25, "widths": [4, 8]}


def fed(rule, images):
    judged = []
    rule.start(images[0], images[0])
    judge = rule.judge
    rule.judge = lambda value, k, output: (judged.append((k, float(value))), judge(value, k, output))
    for k, x in enumerate(images):
        rule.update(k, x, x, None, None)
    return judged


@pytest.mark.parametrize("complex_", [True, False])
def test_error_is_taken_before_training_on_iterates_of_even_ages(complex_):
    """By a plain loop over a copy of the first auto-encoder: error of the newest iterate, then one step on those 0, 3 and 6 steps old."""
    images, rule = walk(16, (2, 9, 12), complex_=complex_), make("sv_es", **SMALL)
    rule.start(images[0], images[0])
    net = copy.deepcopy(rule.net)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    real = [torch.cat([torch.stack([p.real, p.imag]) for p in x]) if complex_ else x for x in images]
    want = []
    for k in range(7, 16):
        net.eval()
        want.append((k, float((net(real[k][None])[0] - real[k]).square().sum().detach())))
        net.train()
        adam.zero_grad()
        ages = [0, *(8 - i * 8 // 3 for i in (1, 2))]
        torch.nn.functional.mse_loss(net(batch := torch.stack([real[k - age] for age in ages])), batch).backward()
        adam.step()
    found = fed(make("sv_es", **SMALL), images)
    assert [k for k, _ in found] == list(range(7, 16))
    assert np.allclose([v for _, v in found], [v for _, v in want], rtol=1e-3)


def test_auto_encoder_has_the_released_layers():
    """3 x 512 x 512: seven halvings to 4 x 4, four linear layers of 16, as many numbers as the released code's."""
    with torch.device("meta"):
        net = sv_es.AutoEncoder((3, 512, 512), [32, 64, 128, 128, 128, 128])
    channels = [3, 32, 64, 128, 128, 128, 128, 1]
    pairs = list(zip(channels, channels[1:], strict=False))
    convolutions, norms = 2 * sum(9 * a * b for a, b in pairs), 2 * sum(channels[1:]) + 2 * sum(channels[1:-1])
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms + 4 * 16 * 16
    assert net.sizes[-1] == (4, 4) and net(torch.empty(2, 3, 512, 512, device="meta")).shape == (2, 3, 512, 512)


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 33, 20), (3, 16, 64)])
def test_images_of_any_size_pass(shape):
    net = sv_es.AutoEncoder(shape, [4, 8])
    assert net(torch.rand(2, *shape)).shape == (2, *shape)


def test_stops_where_images_are_easy_to_learn():
    """Iterates that settle on a smooth image and are then filled with fresh noise: the stop lies where they rest."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[-1 : 1 : 16j, -1 : 1 : 16j]
    truth = np.exp(-3 * (xx**2 + yy**2))
    level = np.concatenate([np.linspace(1, 0.02, 100), np.full(60, 0.02), np.linspace(0.02, 0.6, 80)])
    images = torch.from_numpy(np.stack([truth + s * rng.standard_normal((16, 16)) for s in level])[:, None]).float()
    rule = make("sv_es", window=16, batch=8, patience=60, widths=[8, 8], lr=5e-3)
    fed(rule, images)
    stopped, chosen = rule.verdict()
    assert stopped and 95 <= chosen < 172, chosen
    assert torch.equal(rule.chosen(), images[chosen])


def test_same_bits_after_a_restart_in_the_middle():
    """Weights, batch statistics and Adam's moments are in the state: straight and resumed judge alike."""
    images = walk(30, (1, 9, 12))
    straight = fed(make("sv_es", **SMALL), images)
    first, second = make("sv_es", **SMALL), make("sv_es", **SMALL)
    begun = fed(first, images[:15])
    second.start(images[14], images[14])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    judged, judge = [], second.judge
    second.judge = lambda value, k, output: (judged.append((k, float(value))), judge(value, k, output))
    for k in range(15, 30):
        second.update(k, images[k], images[k], None, None)
    assert begun + judged == straight
