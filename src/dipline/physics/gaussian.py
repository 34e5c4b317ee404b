"""Compressed sensing with a Gaussian matrix: the model of the theorems.

    A x = G x / L,   G (m, n) with independent entries N(0, 1/m), L = ‖G‖

The same matrix serves every colour. Heckel, Soltanolkotabi, ICML 2020.
"""

import numpy as np
import torch

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked

CITE = ("heckel2020",)
REFUSES = [({"precondition": "> 0"}, "0: a Gaussian matrix favours no part of an image; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data`` float (colours, units), ``shape`` (colours, H, W), ``index`` (units,), rows of the matrix; ``drawn`` (m, seed),
            the number of its rows and what numpy's default generator is seeded with.

    Returns:
        (operator, y), y float32 (colours, units), divided by L.
    """
    y = checked(arrays, "drawn")
    rows, seed = (int(n) for n in arrays["drawn"])
    operator = Gaussian(matrix(rows, int(arrays["shape"][1]) * int(arrays["shape"][2]), seed), arrays["shape"], arrays["index"])
    return told(operator, arrays).to(device), (y / operator.length).to(device)


def matrix(rows, columns, seed):
    """G, float32 (rows, columns)."""
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)


class Gaussian(Sampled):
    """See the module's docstring.

    Attributes:
        length: L.
    """

    def __init__(self, matrix, shape, index=None):
        matrix = torch.as_tensor(matrix)
        super().__init__(shape, index, len(matrix))
        gram = matrix.double() @ matrix.double().T
        self.length = float(torch.linalg.eigvalsh(gram)[-1].sqrt())
        self.matrix = matrix / self.length

    def plane(self, x):
        return x.flatten(1) @ self.matrix.T

    def back(self, values):
        return (values @ self.matrix).reshape(self.domain)

    def init(self, y):
        """Gᵀ of the data."""
        return self.back(self.placed(y / self.weights)) * self.length**2

    @classmethod
    def example(cls):
        return cls(matrix(24, 56, 0), (2, 8, 7), [i for i in range(24) if i % 5])
