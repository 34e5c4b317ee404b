"""Networks: shapes, odd sizes, parameter counts of the papers, same seed -> same weights."""

import pytest
import torch

from dipline import registry
from dipline.networks import resample

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
        ("deep_decoder", (128, 3), {}, 100_224),  # six layers of 128, for 512² x 3 = 786,432 values
        ("deep_decoder", (256, 1), {"widths": [256] * 5}, 330_496),  # compressed sensing
        ("conv_decoder", (256, 30), {}, 4_141_854),  # knees of 15 coils
        ("conv_decoder", (160, 30), {"widths": [160] * 8, "bias": False}, 1_850_560),
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


DECODERS = [name for name in NAMES if hasattr(registry.get("networks", name).load(), "grid")]


def test_grids_are_those_of_the_papers():
    grid = lambda name, shape: registry.get("networks", name).load().grid(shape, **registry.get("networks", name).defaults())  # noqa: E731
    assert grid("deep_decoder", (512, 512)) == (16, 16)
    assert grid("conv_decoder", (640, 368)) == (8, 4)
    assert grid("deep_decoder", (45, 33)) == (4, 4) and grid("deep_decoder", (2, 640)) == (2, 20)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shape", [(64, 64), (45, 37), (3, 70)])
def test_decoders_take_noise_on_their_grid_and_images_as_means_over_its_cells(name, shape):
    plugin = registry.get("networks", name)
    params = {"widths": [8] * 4}
    h, w = plugin.load().grid(shape, **plugin.defaults() | params)
    assert h * w < shape[0] * shape[1]
    net = build(name, 3, 2, shape, **params)
    coarse = torch.randn(1, 3, h, w)
    assert net(coarse).shape == (1, 2, *shape)
    if shape == (64, 64):
        assert torch.allclose(net(coarse.repeat_interleave(64 // h, 2).repeat_interleave(64 // w, 3)), net(coarse), atol=1e-5)


def normed(h):
    return (h - h.mean((2, 3), keepdim=True)) / (h.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


def test_deep_decoder_is_its_definition():
    """h <- norm(relu(up(W h))) twice, once without up, then W h, with the matrices as they are and a norm that has learnt nothing."""
    net, h = build("deep_decoder", 5, 2, (16, 24), widths=[6, 6, 6]), torch.randn(1, 5, 4, 6)
    want = h
    for i, conv in enumerate(net.convs):
        want = torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], want)
        want = normed((torch.nn.Upsample(scale_factor=2, mode="bilinear")(want) if i < 2 else want).relu())
    want = torch.einsum("oi,bihw->bohw", net.last[0].weight[..., 0, 0], want)
    assert torch.allclose(net(h), want, atol=1e-5)


def test_conv_decoder_is_its_definition():
    """h <- norm(relu(conv(up h))) twice, once without up, then W h; 16 = 4·2·2 and 50 = 2·5·5."""
    net, h = build("conv_decoder", 3, 2, (16, 50), widths=[6, 6, 6], grid_height=4, grid_width=2), torch.randn(1, 3, 4, 2)
    assert net.sizes == [(4, 2), (8, 10), (16, 50)]
    want = h
    for i, block in enumerate(net.blocks):
        up = want.repeat_interleave(2, 2).repeat_interleave(5, 3) if i < 2 else want
        want = normed(torch.nn.functional.conv2d(up, block[0].weight, block[0].bias, padding=1).relu())
    assert torch.allclose(net(h), torch.nn.functional.conv2d(want, net.last[0].weight, net.last[0].bias), atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_upsampling_for_a_gpu_is_torchs_with_its_gradient(align_corners):
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = resample.Bilinear.apply(x, (10, 13), align_corners)
    wanted = torch.nn.functional.interpolate(x, (10, 13), mode="bilinear", align_corners=align_corners)
    weights = torch.rand(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)  # the interpolation matrix is in single precision


def test_reflection_for_a_gpu_is_torchs_with_its_gradient():
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, wanted = resample.Reflected.apply(x), torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    weights = torch.rand(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients)
