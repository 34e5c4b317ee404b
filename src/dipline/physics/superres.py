"""Super-resolution: a small image is the large one, filtered and sampled.

    A x = R x Cᵀ / L,   R (h, H) and C (w, W) the weights of rows and columns, L the norm of x ↦ R x Cᵀ

Every row of R and C sums to 1, so that grey stays grey.
"""

import torch

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked

REFUSES = [({"precondition": "> 0"}, "0: there is no preconditioner for super-resolution; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data`` float (colours, units), ``shape`` (colours, H, W), ``index`` (units,), places of the small image read row by
            row; ``rows`` (h, H), ``columns`` (w, W) weights; ``up_rows`` (H, h), ``up_columns`` (W, w): those of an enlargement.

    Returns:
        (operator, y), y float32 (colours, units), divided by L.
    """
    y = checked(arrays, "rows", "columns", "up_rows", "up_columns")
    matrices = [torch.as_tensor(arrays[name], dtype=torch.float32) for name in ("rows", "columns", "up_rows", "up_columns")]
    operator = Downsampling(*matrices, arrays["shape"], arrays["index"])
    return told(operator, arrays).to(device), (y / operator.length).to(device)


class Downsampling(Sampled):
    """See the module's docstring.

    Attributes:
        length: L.
    """

    def __init__(self, rows, columns, up_rows, up_columns, shape, index=None):
        super().__init__(shape, index, len(rows) * len(columns))
        self.rows, self.columns, self.up_rows, self.up_columns = rows, columns, up_rows, up_columns
        self.length = float(torch.linalg.matrix_norm(rows.double(), 2) * torch.linalg.matrix_norm(columns.double(), 2))

    def plane(self, x):
        return (self.rows @ x @ self.columns.T).flatten(1) / self.length

    def back(self, values):
        small = values.reshape(len(values), len(self.rows), len(self.columns))
        return self.rows.T @ small @ self.columns / self.length

    def init(self, y):
        """The small image enlarged."""
        small = self.whole(y).reshape(len(y), len(self.rows), len(self.columns))
        return self.up_rows @ small @ self.up_columns.T * self.length

    @classmethod
    def example(cls):
        half = torch.zeros(4, 8)
        half[range(4), range(0, 8, 2)] = 0.7
        half[range(4), range(1, 8, 2)] = 0.3
        up = (half.T > 0).float()
        return cls(half, half, up, up, (3, 8, 8), [i for i in range(16) if i % 5])
