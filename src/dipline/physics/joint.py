"""Neighbouring slices, or the frames of a series, as one problem: their operators side by side.

    A (x_1, …, x_S) = (A_1 x_1, …, A_S x_S)

An image is the slices' images one after the other, (S · parts, H, W); a measurement their measurements one after the other along the
axis of the units, so that every stop rule and data weight works as on one slice.
"""

import torch

from dipline.physics.base import Operator


class Joint(Operator):
    """See the module's docstring.

    Args:
        operators: of one scan, with equal domains.

    Attributes:
        frames: S.
    """

    def __init__(self, operators):
        self.each = list(operators)
        first = self.each[0]
        self.frames, (self.parts, height, width) = len(self.each), first.domain
        self.domain = (self.frames * self.parts, height, width)
        self.complex, self.linear, self.unit_axis = first.complex, first.linear, first.unit_axis
        self.norm, self.units = max(A.norm for A in self.each), [len(A.spare()) for A in self.each]
        if any(A.support is not None for A in self.each):
            self.support = torch.cat([_everywhere(A) if A.support is None else A.support.expand(A.domain) for A in self.each])
        if hasattr(first, "consistent"):
            self.consistent = self._consistent

    dtype = property(lambda self: self.each[0].dtype)

    def images(self, x):
        """The slices' images (parts, H, W) in x (S · parts, H, W)."""
        return x.split(self.parts)

    def parted(self, y):
        """What belongs to each slice, of a measurement or of anything else that has the units on their axis."""
        return y.split(self.units, self.unit_axis)

    def joined(self, measurements):
        """One measurement of the slices' measurements."""
        return torch.cat(list(measurements), self.unit_axis)

    def _pairs(self, x, y):
        return zip(self.each, self.images(x), self.parted(y), strict=True)

    def __call__(self, x):
        return self.joined(A(image) for A, image in zip(self.each, self.images(x), strict=True))

    def AT(self, y):
        return torch.cat([A.AT(part) for A, part in zip(self.each, self.parted(y), strict=True)])

    def init(self, y):
        return torch.cat([A.init(part) for A, part in zip(self.each, self.parted(y), strict=True)])

    def residual(self, x, y):
        return sum(A.residual(image, part) for A, image, part in self._pairs(x, y))

    def _consistent(self, x, y):
        return torch.cat([A.consistent(image, part) for A, image, part in self._pairs(x, y)])

    def view(self, x):
        """The slices' views, (S, h, w) or (S, colours, h, w)."""
        return torch.stack([A.view(image) for A, image in zip(self.each, self.images(x), strict=True)])

    def view_scale(self, x):
        return max(A.view_scale(image) for A, image in zip(self.each, self.images(x), strict=True))

    def scale_of(self, x):
        """One scale for all, that of the brightest: slices keep their brightness relative to each other."""
        return max(A.scale_of(image) for A, image in zip(self.each, self.images(x), strict=True))

    def spare(self):
        return torch.cat([A.spare() for A in self.each])

    def restrict(self, keep):
        return Joint(A.restrict(k) for A, k in zip(self.each, keep.split(self.units), strict=True))

    def deviations(self, y, sigma=0.0):
        parts = self.parted(y)
        found = [A.deviations(part, sigma) for A, part in zip(self.each, parts, strict=True)]
        if any(f is None for f in found):
            return None
        return self.joined(f + torch.zeros_like(part.abs()) for f, part in zip(found, parts, strict=True))

    def weighted(self, weights):
        return Joint(A.weighted(w) for A, w in zip(self.each, self.parted(weights), strict=True))

    def preconditioned(self, y, strength):
        return self._both(A.preconditioned(part, strength) for A, part in zip(self.each, self.parted(y), strict=True))

    def data_term(self, kind, y, scale):
        return self._both(A.data_term(kind, part, scale) for A, part in zip(self.each, self.parted(y), strict=True))

    def _both(self, pairs):
        operators, measurements = zip(*pairs, strict=True)
        joint = Joint(operators)
        return joint, joint.joined(measurements)

    def to(self, device):
        return Joint(A.to(device) for A in self.each)


def _everywhere(A):
    return torch.ones(A.domain, dtype=torch.bool)
