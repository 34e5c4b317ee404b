"""Blur by a learnt model, such as the one for unknown non-linear blurs of Tran et al. 2021, which DPS and aSeqDIP are tested with.

    A x = B(x)

B is a TorchScript module that takes one image, float32 (1, colours, H, W) with values between 0 and 1, and gives its blurred image of the
same shape; a blur kernel or its code is a constant inside it. No model is shipped. The measurement file holds the model, as every
operator's file holds all that it needs.
"""

import io

import torch

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked

CITE = ("tran2021",)
REFUSES = [({"precondition": "> 0"}, "0: there is no preconditioner for a blur; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image; ``arrays`` as for ``pixels``, and ``model``, uint8, the bytes of the TorchScript file."""
    y = checked(arrays, "model")
    model = torch.jit.load(io.BytesIO(arrays["model"].tobytes()), map_location="cpu").eval()
    return told(NeuralBlur(model, arrays["shape"], arrays["index"]), arrays).to(device), y.to(device)


class NeuralBlur(Sampled):
    """See the module's docstring."""

    linear = False

    def __init__(self, model, shape, index=None):
        super().__init__(shape, index)
        self.model = model

    def plane(self, x):
        return self.model(x[None])[0].flatten(1)

    def scale_of(self, x):
        """1: the model knows grey levels as they are."""
        return 1.0

    def init(self, y):
        """The blurred image itself."""
        return self.whole(y).reshape(self.domain)

    def to(self, device):
        other = super().to(device)
        other.model = self.model.to(device)
        return other

    @classmethod
    def example(cls):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Softplus(), torch.nn.Conv2d(4, 2, 3, padding=1)]
        model = torch.nn.Sequential(*layers).requires_grad_(False).eval()
        return cls(model, (2, 10, 9), [i for i in range(90) if i % 7])
