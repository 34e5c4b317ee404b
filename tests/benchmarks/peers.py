"""The official codes of others as runners of the benchmark: their networks from a folder that the user names, their iteration.

None of their code is here: a class below imports the network from FOLDER, and takes the steps that their script takes, on the same
measurement as ours, undersampled k-space and coil maps of one slice. Settings are those of their scripts. ``--peer NAME=FOLDER``.
"""

import contextlib
import io
import sys
import types

import numpy as np
import torch
from torch.fft import fft2, fftshift, ifft2, ifftshift


class Peer:
    """A runner: ``step()``, and ``image()``, the magnitude (H, W) in the units of the data.

    Args:
        folder: of the checkout.
        kspace: complex (coils, H, W), zero where not sampled; mask: bool (W,) or (H, W); maps: complex (coils, H, W).
    """

    def __init__(self, folder, kspace, mask, maps):
        sys.path.insert(0, str(folder))
        torch.manual_seed(0)
        self.kspace, self.maps = (torch.as_tensor(x, dtype=torch.complex64) for x in (kspace, maps))
        self.mask = torch.as_tensor(np.broadcast_to(mask, kspace.shape[1:]).copy(), dtype=torch.float32)
        with contextlib.redirect_stdout(io.StringIO()):
            self.prepare()

    def zero_filled(self):
        return (self.maps.conj() * self.inverse(self.kspace)).sum(0)

    def forward(self, image):
        """Complex (H, W) -> all of k-space, with the shifts that the scripts make at every step."""
        return fftshift(fft2(ifftshift(self.maps * image, dim=(-2, -1)), norm=self.norm), dim=(-2, -1))

    def inverse(self, kspace):
        return fftshift(ifft2(ifftshift(kspace, dim=(-2, -1)), norm=self.norm), dim=(-2, -1))

    norm = "ortho"

    def image(self):
        return self.last.detach().abs().numpy() / self.scale


class Ulyanov(Peer):
    """deep-image-prior (Ulyanov et al. 2018): the skip network of its denoising notebook, fitted to k-space."""

    def prepare(self):
        from models.skip import skip

        self.net = skip(32, 2, [128] * 5, [128] * 5, [4] * 5, upsample_mode="bilinear", need_sigmoid=False, pad="reflection")
        self.z = torch.rand(1, 32, *self.mask.shape) * 0.1
        self.scale = 1 / float(self.zero_filled().abs().max())
        self.optimiser, self.losses = torch.optim.Adam(self.net.parameters(), lr=0.01), []

    def step(self):
        self.optimiser.zero_grad()
        out = self.net(self.z + torch.randn_like(self.z) / 30)[0]
        self.last = torch.complex(out[0], out[1])
        loss = (self.mask * (self.forward(self.last) - self.scale * self.kspace)).abs().square().mean()
        loss.backward()
        self.losses.append(loss.item())
        self.optimiser.step()


class ConvDecoder(Peer):
    """ConvDecoder (Darestani and Heckel 2021): a channel for each part of each coil's image, no maps in the loss, 256 channels."""

    def prepare(self):
        sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))  # imported there for pictures alone
        from include.decoder_conv import convdecoder

        coils, (height, width) = len(self.kspace), self.mask.shape
        self.net = convdecoder(
            (height, width), [8, 4], 2 * coils, 7, [1] * 7, 256, need_sigmoid=False, upsample_mode="nearest", skips=False, bias=True,
            need_last=True,
        )  # fmt: skip
        self.z = torch.rand(1, 256, 8, 4) * 0.1
        coil_images = self.inverse(self.kspace)
        with torch.no_grad():
            first = self.coils(self.net(self.z)).abs().square().sum(0).sqrt()
        self.scale = float(first.norm() / coil_images.abs().square().sum(0).sqrt().norm())
        self.optimiser, self.best, self.last = torch.optim.Adam(self.net.parameters(), lr=0.01), np.inf, None

    def coils(self, out):
        real, imaginary = out[0].chunk(2)
        return torch.complex(real, imaginary)

    def step(self):
        self.optimiser.zero_grad()
        images = self.coils(self.net(self.z))
        full = fftshift(fft2(ifftshift(images, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))
        loss = (self.mask * (full - self.scale * self.kspace)).abs().square().mean()
        loss.backward()
        self.optimiser.step()
        if loss.item() < 0.995 * self.best:  # their find_best
            self.best, self.last = loss.item(), (self.maps.conj() * images.detach()).sum(0)


class SelfGuided(Peer):
    """Self-Guided DIP (Liang et al. 2025): input and network fitted together, three draws a step, un-squared norms."""

    norm = None  # un-normalised transforms

    def prepare(self):
        from unet import ExtraDeepUNet

        self.net = ExtraDeepUNet(2, 2).float()
        _their_start(self.net)
        self.z = torch.rand(1, 2, *self.mask.shape).requires_grad_()
        zero_filled = self.zero_filled()
        with torch.no_grad():
            self.scale = float(self.net(self.z).norm() / zero_filled.norm())
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=3e-4)
        self.other = torch.optim.Adam([self.z], lr=0.1)
        self.average = torch.zeros_like(zero_filled)
        self.count = 0

    def step(self):
        self.optimiser.zero_grad()
        self.other.zero_grad()
        draws = [self.net(self.z + torch.rand_like(self.z) * self.z.detach().max() / 2) for _ in range(3)]
        out = torch.stack(draws).mean(0)
        image = torch.complex(out[0, 0], out[0, 1])
        loss = (self.mask * (self.forward(image) - self.scale * self.kspace)).norm() + 2 * (self.z - out).norm()
        loss.backward()
        loss.item()
        self.optimiser.step()
        self.other.step()
        self.count += 1
        self.average = 0.99 * self.average + 0.01 * image.detach()
        self.last = self.average / (1 - 0.99**self.count)


class ASeqDip(Peer):
    """aSeqDIP (Alkhouri et al. 2024), its MRI script: ten steps, then the input becomes the output with the measured samples in it."""

    norm = None

    def prepare(self):
        from unet import MediumUNet

        self.net = MediumUNet(2, 2).float()
        _their_start(self.net)
        self.set_input(self.zero_filled())
        with torch.no_grad():
            self.scale = float(self.net(self.z).norm() / self.zero_filled().norm())
        self.optimiser, self.k = torch.optim.Adam(self.net.parameters(), lr=1e-4), 0

    def set_input(self, image):
        self.z = torch.stack([image.real, image.imag])[None].detach()

    def step(self):
        self.optimiser.zero_grad()
        out = self.net(self.z)
        self.last = torch.complex(out[0, 0], out[0, 1])
        full = self.forward(self.last)
        loss = (self.mask * (full - self.scale * self.kspace)).norm() + (self.z - out).norm()
        loss.backward()
        loss.item()
        self.optimiser.step()
        self.k += 1
        if self.k % 10 == 0:
            mixed = (1 - self.mask) * full.detach() / self.scale + self.mask * self.kspace
            self.set_input((self.maps.conj() * self.inverse(mixed)).sum(0))


def _their_start(net):
    """The initialisation of both U-Net scripts."""
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, 0, 0.02)
            torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.02)
            torch.nn.init.zeros_(module.bias)


PEERS = {"ulyanov": Ulyanov, "convdecoder": ConvDecoder, "self_guided": SelfGuided, "aseq_dip": ASeqDip}
