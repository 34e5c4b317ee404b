"""SV-ES, self-validation: stop where an auto-encoder that learns the recent iterates reconstructs the newest one best.

    e(t) = ‖x_t − D(E(x_t))‖²,   then a training step of D∘E on iterates of the last ``window`` steps;
    stop when the running minimum of e has not fallen for ``patience`` iterations

Li, Zhuang, Liang, Peng, Wang, Sun, BMVC 2021, what ES-DIP (``wmv``) compares with: good images lie close together and are easy to learn,
noise is not. e is taken before the auto-encoder has seen x_t, once the window is full.

Settings of the released code (the paper's own were not at hand): window 256, patience 500, Adam 1e-3; encoder of 3x3 convolutions of
stride 2 with 32, 64, 128, 128, 128, 128, 1 channels, batch norm and ReLU, which takes 512² to a code of 4x4 numbers; four linear layers
without bias; a decoder of bilinear enlargement and convolutions with the widths reversed.

Deviations: one training step a step on ``batch`` iterates spread over the window, where the code passes the whole window (8 batches of
32), so that the auto-encoder learns more slowly and the stop costs an eighth; Adam's moments are kept; images of other sizes are halved,
7 times at most, until the shorter side is below 8 pixels; no sigmoid at the end and iterates are not cut off at 0 and 1, which are no
bounds of a scan; real and imaginary parts are two channels. The auto-encoder starts from the same weights for every seed.

The dearest of the stop rules: a step passes ``batch`` images through the auto-encoder and back, and the window holds that many images.
Says little for methods whose iterates do not settle and drift again (aSeqDIP, Self-Guided) or that show a mean of samples (sgld).
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from dipline.stopping.base import Patient

CITE = ("li2021",)
NOT_FOR = ("aseq", "self_guided", "sgld")
PARAMETERS = {
    "window": 256, "patience": 500, "min_iterations": 0, "margin": 0.0, "batch": 32, "lr": 1e-3,
    "widths": [32, 64, 128, 128, 128, 128],
}  # fmt: skip
BOUNDS = {"window": ">= 2", "margin": ">= 0, < 1", "lr": "> 0", "widths": ">= 1"}
SMALLEST = 4  # pixels of the code's shorter side


class SelfValidation(Patient):
    def __init__(self, iterations, window, patience, min_iterations, margin, batch, lr, widths):
        super().__init__(iterations, patience, max(min_iterations, window - 1), margin)
        self.window, self.batch, self.lr, self.widths = window, min(batch, window), lr, widths

    def start(self, image, output):
        super().start(image, output)
        first = _channels(image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = AutoEncoder(first.shape, self.widths).to(image.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), self.lr, fused=True)
        self.register_buffer("ring", torch.zeros((self.window, *first.shape), device=image.device))

    def update(self, k, image, output, loss, held_loss):
        new = _channels(image)
        self.ring[k % self.window].copy_(new)
        if k < self.window - 1:
            self.keep(torch.ones((), dtype=torch.bool, device=image.device), k, output)
            return
        self.net.eval()
        with torch.no_grad():
            error = (self.net(new[None])[0] - new).square().sum()
        self.judge(error, k, output)
        self.train_on(self.ring[self.slots(k)])

    def slots(self, k):
        """Where ``batch`` iterates of evenly spread ages lie in the ring, the newest among them: each is seen as often as any other."""
        return (k + torch.arange(self.batch, device=self.ring.device) * self.window // self.batch) % self.window

    def train_on(self, images):
        self.net.train()
        with torch.enable_grad():
            error = F.mse_loss(self.net(images), images)
            self.optimiser.zero_grad(set_to_none=True)
            error.backward()
        self.optimiser.step()

    def get_extra_state(self):
        return self.optimiser.state_dict()

    def set_extra_state(self, state):
        self.optimiser.load_state_dict(state)


class AutoEncoder(nn.Module):
    """(n, C, H, W) -> the same, through a code of one channel; ``shape``: (C, H, W)."""

    def __init__(self, shape, widths):
        super().__init__()
        channels, self.sizes = [shape[0]], [tuple(shape[1:])]
        for width in [*widths, 1]:
            if len(channels) > 1 and min(self.sizes[-1]) < 2 * SMALLEST:
                break
            channels.append(width)
            self.sizes.append(tuple(-(-n // 2) for n in self.sizes[-1]))
        channels[-1] = 1
        pairs = list(pairwise(channels))
        self.down = nn.Sequential(*(layer for a, b in pairs for layer in _block(a, b, stride=2)))
        code = self.sizes[-1][0] * self.sizes[-1][1]
        self.middle = nn.Sequential(*(nn.Linear(code, code, bias=False) for _ in range(4)))
        self.up = nn.ModuleList(nn.Sequential(*_block(b, a)) for a, b in reversed(pairs[1:]))
        self.last = nn.Conv2d(channels[1], shape[0], 3, padding=1, bias=False)

    def forward(self, x):
        code = self.down(x)
        x = self.middle(code.flatten(1)).view_as(code)
        for layers, size in zip([*self.up, self.last], reversed(self.sizes[:-1]), strict=True):
            x = layers(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        return x


def _block(i, o, stride=1):
    return nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()


def _channels(image):
    """An image (parts, H, W) as real channels (C, H, W)."""
    return torch.view_as_real(image).permute(0, 3, 1, 2).flatten(0, 1) if image.is_complex() else image
