"""Run the given number of iterations and hand over the last output."""

from dipline.stopping.base import Rule

PARAMETERS = {}


class Fixed(Rule):
    def update(self, k, image, output, loss, held_loss):
        self.kept.copy_(output)
        self.k_chosen.fill_(k)
