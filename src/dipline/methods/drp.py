"""DRP, Deep Random Projector: the network stays random; its input and the affine parts of its batch norms are fitted.

    min_{z, θ_BN} rms(A x − y) + λ (‖D₁x‖₁ + ‖D₂x‖₁)/n,   x = f(BN(z); random θ, θ_BN)

Li, Wang, Zhuang, Sun, CVPR 2023: convolutions are frozen where they began, so that one scale is enough and a step costs little; z is
normalised before it enters. z has as many unknowns as the image, hence the total variation, which is what keeps noise out.

rms is the root mean square over the measured values, n the number of the image's real channels and pixels: un-squared as in the
released code, to which the weights belong, and independent of size. D₁, D₂ are differences of neighbours in each channel.

Defaults: those of the code for denoising: one scale of width 64 with 4 skip channels, z ~ 0.1 N(0, 1) with the image's channels, Adam
0.1 on z and θ_BN, λ = 0.45, 5000 steps. There λ = 0.75 with rate 0.5 serves super-resolution, 0.01 with rate 0.05, width 128 and 128
skip channels inpainting. Nothing is published for MRI or CT: choose λ on a slice that is not reported.

Deviations: batch norms use the statistics of the one image also in the input's norm; convolutions are not perturbed from step to step
(released code, inpainting alone). ``input: zero_filled`` or ``least_squares`` starts at an image instead of noise.
"""

from torch import nn

from dipline.methods.base import Method, Stage

CLASS = "re-parameterised"
CITE = ("li2023",)
NETWORK = {"skip": {"widths": [64], "skip_widths": [4]}}
ITERATIONS = 5000
PARAMETERS = {
    "lr": 0.1,
    "lam": 0.45,
    "input": ("normal", "uniform", "zero_filled", "least_squares"),
    "input_channels": 0,
    "input_scale": 0.1,
}
BOUNDS = {"lr": "> 0", "input_scale": "> 0"}
REFUSES = [
    ({"penalty.tv": "> 0"}, "0: params: {lam: …} is drp's own weight of the total variation; leave it out"),
    ({"penalty.tv_isotropic": "> 0"}, "0: params: {lam: …} is drp's own weight of a total variation; leave it out"),
]


class DeepRandomProjector(Method):
    def __init__(self, problem, lr, lam, input, input_channels, input_scale):
        super().__init__(problem)
        self.z = nn.Parameter(self.first_input(input, input_channels, input_scale))
        channels = self.z.shape[1]
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)
        self.net = problem.network(channels, self.A.channels)
        self.net.requires_grad_(False)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.requires_grad_(True)
        self.lr, self.lam = lr, lam

    def stages(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return [Stage("fit", self.problem.iterations, [{"params": trained, "lr": self.lr}])]

    def total_variation(self, image):
        """The mean-type anisotropic total variation of channels (1, C, H, W)."""
        return (image.diff(dim=-1).abs().sum() + image.diff(dim=-2).abs().sum()) / image.numel()

    def loss(self, k):
        x = self.as_image(self.net(self.norm(self.z)))
        rms = (self.misfit(x) / self.y.numel()).sqrt()
        return rms + self.lam * self.total_variation(self.channels(x)), x
