"""Deep video prior: one network for all frames of a series, each fed with its own starting image.

    min_θ Σ_t ‖A_t f_θ(z_t) − y_t‖²,   z_t the zero-filled frame t, fixed

Lei, Xing, Chen, NeurIPS 2020: a network that maps every frame of a video alike cannot follow what flickers from frame to frame before
it has fitted what the frames share; stopped in time it gives a series without flicker. Here aliasing and noise take the place of the
flicker that a frame-wise filter leaves. U-Net, Adam 1e-4, stopped early: pair it with a stop rule.

Frames are the slices of a volume: ``block: {slices: 8, mode: joint}`` makes one problem of eight of them. All frames pass the network
at every step, so that batch statistics are those of the series; the paper takes one frame a step.

Deviations: the paper fits frames that another method has processed, under a perceptual loss of a pre-trained network; here the data
term of every frame stands in its place, since there is nothing but measurements. The paper's weighting for several plausible results
(IRT) has no counterpart.
"""

from dipline.methods.base import Method, Stage

CLASS = "early stopping"
CITE = ("lei2020",)
NETWORK = {"unet": {}}
ITERATIONS = 2000
PARAMETERS = {"lr": 1e-4}
BOUNDS = {"lr": "> 0"}
REFUSES = [({"mode": "serial"}, "a series as one problem; give the arm e.g. block: {slices: 4, mode: joint}")]


class VideoPrior(Method):
    def __init__(self, problem, lr):
        super().__init__(problem)
        frames = self.channels(problem.x0)
        self.register_buffer("z", frames.view(self.A.frames, -1, *frames.shape[-2:]))
        self.net = problem.network(self.z.shape[1], self.A.channels // self.A.frames)
        self.lr = lr

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}])]

    def loss(self, k):
        x = self.as_image(self.net(self.z))
        return self.misfit(x), x
