"""Networks: shapes, odd sizes, parameter counts of the papers, same seed -> same weights."""

import pytest
import torch

from dipline import registry

NAMES = list(registry.plugins("networks"))


def build(name, i, o, shape, **params):
    plugin = registry.get("networks", name)
    values, problems = registry.check_parameters(plugin, params)
    assert not problems
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plugin.load().build(i, o, shape, **values)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(64, 64), (45, 37), (33, 64)])
def test_output_has_the_size_of_the_input(name, shape):
    net = build(name, 3, 2, shape)
    out = net(torch.randn(1, 3, *shape))
    assert out.shape == (1, 2, *shape) and bool(torch.isfinite(out).all())


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_weights_and_every_weight_learns(name):
    a, b = build(name, 2, 2, (64, 64)), build(name, 2, 2, (64, 64))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    a(torch.randn(1, 2, 64, 64)).square().sum().backward()
    assert all(p.grad is not None for p in a.parameters())


@pytest.mark.parametrize(
    "name, channels, params, expected",
    [
        ("unet", (2, 2), {}, 4_283_842),  # aSeqDIP's network
        ("unet", (2, 2), {"widths": [64, 128, 256, 512, 512]}, 17_266_882),
        ("unet", (2, 2), {"widths": [64, 128, 256, 512, 1024, 1024]}, 69_185_218),  # Self-Guided DIP's network
        ("skip", (32, 3), {}, 2_217_831),  # Ulyanov's default
        ("skip", (32, 2), {}, 2_217_702),
        ("skip", (32, 1), {}, 2_217_573),
        ("skip", (32, 3), {"skip_widths": [128] * 5, "upsampling": "nearest"}, 3_002_627),  # the inpainting variant
    ],
)
def test_parameter_counts_of_the_papers(name, channels, params, expected):
    with torch.device("meta"):
        values = registry.check_parameters(registry.get("networks", name), params)[0]
        assert count(registry.get("networks", name).load().build(*channels, (64, 64), **values)) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output, least", [("sigmoid", 0.0), ("softplus", 0.0)])
def test_output_activation_keeps_images_non_negative(name, output, least):
    out = build(name, 1, 1, (32, 32), output=output)(torch.randn(1, 1, 32, 32))
    assert float(out.detach().min()) >= least


def test_batch_norm_uses_the_statistics_of_the_one_image():
    """Evaluation mode with running averages would change the image (a known pitfall of released code)."""
    net = build("skip", 2, 2, (32, 32), widths=[8, 8], skip_widths=[2, 2])
    z = torch.randn(1, 2, 32, 32)
    assert torch.equal(net.train()(z), net.eval()(z))


def test_skip_widths_must_match():
    skip = registry.get("networks", "skip")
    said = "found 5 entries, allowed: 2, as many as widths has"
    assert registry.check_parameters(skip, {"widths": [8, 8]})[1] == [("skip_widths", said)]
    with pytest.raises(ValueError, match="skip_widths has 5 entries, widths has 2"):
        skip.load().build(1, 1, (32, 32), **skip.defaults() | {"widths": [8, 8]})
