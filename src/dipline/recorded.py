"""Steps as CUDA graphs: recorded once on the device and replayed, which spares the host a thousand launches a step.

A small network leaves a large GPU waiting for the host. What is recorded is ``Method.step`` as it is: network, operator, loss, backward,
optimiser, ``after``. Random numbers advance as without, so that images agree to rounding.
"""

import torch

WARM_UP = 3  # steps as they are before recording: libraries choose their algorithms, the optimiser allocates its moments


class Recorded:
    """``step(k)`` of one stage; a graph for each form that a step has (``form(k)``, see ``Method.form``).

    Args:
        generators: {purpose: generator} of all that the method draws from.
        say: takes one line of log.
    """

    def __init__(self, step, form, generators, say):
        self.step, self.form, self.generators, self.say = step, form, generators, say
        self.taken, self.graphs, self.possible = {}, {}, True

    def __call__(self, k):
        """(loss, estimate) of step k, as ``step`` returns them; their memory is written again by the next step."""
        form = self.form(k)
        if form is None or not self.possible:
            return self.step(k)
        self.taken[form] = self.taken.get(form, 0) + 1
        if self.taken[form] <= WARM_UP:
            return self.step(k)
        if form not in self.graphs:
            try:
                self.graphs[form] = self.record(k)
            except RuntimeError as error:
                self.possible = False
                self.say(f"note: steps are not recorded as a CUDA graph: {str(error).splitlines()[0]}")
                return self.step(k)
        graph, result = self.graphs[form]
        graph.replay()
        return result

    def record(self, k):
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators.values():
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            result = self.step(k)
        return graph, result
