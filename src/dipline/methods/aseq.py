"""aSeqDIP: autoencoding sequential DIP; the network's input is replaced by its output again and again.

    φ_k = argmin_φ ‖A f_φ(z_{k−1}) − y‖² + λ ‖f_φ(z_{k−1}) − z_{k−1}‖²   (``inner`` Adam steps, warm start, moments kept)
    z_k = f_{φ_k}(z_{k−1})

Alkhouri, Liang, Bell, Qu, Wang, Ravishankar, NeurIPS 2024 (eq. 15): z₀ = Aᴴy, U-Net, Adam 1e-4, N = 2, K = 2000, λ = 1, sums over all
entries with ‖A‖ ≤ 1. ``iterations`` counts optimiser steps, N·K. The image is f_{φ_K}(z_{K−1}); an arm's ``average`` is ours.

``z_update: dc_output`` is the released MRI script's update (acquired samples of the output replaced by the measured ones); the paper's is
``output``. Deviations from the released code: squared norms as in the paper; z and f in the same units; real and imaginary parts
stacked where the code broadcasts; the last iterate is handed over, never the one with the best PSNR. For CT z₀ is the filtered
back-projection, as in that code; the paper has Aᴴy. The penalty counts all pixels, also those outside the operator's support, where z
is 0 from the first update on.
"""


from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("alkhouri2024",)
NETWORK = {"unet": {}}
ITERATIONS = 4000
PARAMETERS = {"lr": 1e-4, "lam": 1.0, "inner": 2, "z_update": ("output", "dc_output")}
BOUNDS = {"lr": "> 0"}
REFUSES = [
    (
        {"params.z_update": "dc_output", "modality": "ct"},
        "output: rays are no samples that can be replaced in an image; change it, or narrow the arm with `datasets:`",
    )
]


class ASeq(Method):
    def __init__(self, problem, lr, lam, inner, z_update):
        super().__init__(problem)
        self.register_buffer("z", self.first_input("zero_filled"))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr, self.lam, self.inner, self.z_update = lr, lam, inner, z_update
        if z_update == "dc_output" and not hasattr(self.A, "consistent"):
            raise ValueError(
                "aseq: z_update: dc_output needs an operator whose samples can be replaced (MRI); use z_update: output"
            )

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}])]

    def loss(self, k):
        out = self.net(self.z)
        x = self.as_image(out)
        return self.misfit(x) + self.lam * (out - self.z).square().sum(), x

    def form(self, k):
        return int((k + 1) % self.inner == 0)

    def after(self, k):
        if self.form(k):
            x = self.as_image(self.net(self.z))
            self.z.copy_(self.channels(self.A.consistent(x, self.y) if self.z_update == "dc_output" else x))
