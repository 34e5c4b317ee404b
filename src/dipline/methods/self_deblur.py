"""SelfDeblur: one network for the sharp image, a small one for the kernel that blurred it.

    min_{θ,φ} ‖k_φ * f_θ(z) − y‖²,   k_φ = softmax(g_φ(z_k)), so that k ≥ 0 and Σ k = 1

Ren, Zhang, Wang, Hu, Zuo, CVPR 2020 (eq. 5 and 6). g is a fully connected network with one hidden layer, the image's ends in a sigmoid,
both are trained together by Adam. The paper's total variation is ``penalty: {tv: …}`` of the arm. The result keeps the kernel,
``artefact_kernel``.

Defaults: the authors' code's: 5000 steps, 0.01 for the image, 1e-4 for the kernel, 200 inputs and 1000 hidden units, network ``skip``, z
~ U[0, 0.1) with 8 channels. Deviations: the code halves its rates after 2000, 3000 and 4000 steps and compares images by SSIM after
1000; here the rates stay (``average`` does for the end what smaller steps do) and the loss is the paper's. Weights of g are drawn as
torch draws them. The size of the kernel is known, as it is there.
"""

import torch
from torch import nn

from dipline.methods.base import Method, Stage

CLASS = "re-parameterised"
CITE = ("ren2020",)
TASKS = ("deblur_blind",)
ARTEFACTS = ("kernel",)
NETWORK = {"skip": {"output": "sigmoid"}}
ITERATIONS = 5000
PARAMETERS = {
    "lr": 0.01,
    "kernel_lr": 1e-4,
    "hidden": 1000,
    "input": ("uniform", "normal", "zero_filled"),
    "input_channels": 8,
    "input_scale": 0.1,
    "input_noise": 0.001,
}
BOUNDS = {"lr": "> 0", "kernel_lr": "> 0", "input_channels": ">= 1", "input_scale": "> 0"}

INPUTS_OF_KERNEL = 200


class SelfDeblur(Method):
    def __init__(self, problem, lr, kernel_lr, hidden, input, input_channels, input_scale, input_noise):
        super().__init__(problem)
        self.register_buffer("z", self.first_input(input, input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        rng, (kh, kw) = problem.rng("kernel"), self.A.frame
        self.register_buffer("z_kernel", 0.1 * torch.rand(INPUTS_OF_KERNEL, generator=rng, device=rng.device))
        self.kernel_net = nn.Sequential(
            nn.Linear(INPUTS_OF_KERNEL, hidden), nn.ReLU6(), nn.Linear(hidden, kh * kw), nn.Softmax(-1), nn.Unflatten(-1, (kh, kw))
        ).to(rng.device)
        with torch.no_grad():
            for layer in (self.kernel_net[0], self.kernel_net[2]):
                bound = layer.in_features**-0.5
                for p in layer.parameters():
                    p.copy_((2 * torch.rand(p.shape, generator=rng, device=rng.device) - 1) * bound)
        self.lr, self.kernel_lr, self.input_noise, self.noise = lr, kernel_lr, input_noise, problem.rng("input noise")

    def stages(self):
        groups = [{"params": self.net.parameters(), "lr": self.lr}, {"params": self.kernel_net.parameters(), "lr": self.kernel_lr}]
        return [Stage("fit", self.problem.iterations, groups)]

    def kernel(self):
        """(kh, kw)"""
        return self.kernel_net(self.z_kernel)

    def loss(self, k):
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.noise, device=z.device)
        x = self.as_image(self.net(z))
        return (self.A.blurred(x, self.kernel()) - self.y).square().sum(), x

    def artefacts(self):
        return {"kernel": self.kernel().detach()}
