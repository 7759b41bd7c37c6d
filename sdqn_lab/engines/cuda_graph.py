"""Work on a GPU that is launched as one CUDA graph.

An update is some hundred kernels of a few microseconds each, and Python takes longer to launch one
than the GPU to run it. A graph launches all of them at once.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sdqn_lab.networks.blocks import hooks_of
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.neuron import Neuron

WARM_UP_CALLS = 3
"""So many calls make what is made once: compiled kernels, choices of algorithms, workspaces."""
REPEATABLE = ("sdqn_lab.", "torch.nn.")
"""Packages whose modules launch the same kernels at each call. What a module of somebody else's
does beside that, such as counting in Python or looking at a number, no graph would repeat."""
Outputs = TypeVar("Outputs")


def graph_obstacle(network: nn.Module) -> str | None:
    """Why a network's work is no CUDA graph, in a few words; None if nothing is in the way."""
    if type(network) is not SpikingNetwork:
        return "a network of another class"
    if not all(parameter.is_cuda for parameter in network.parameters()):
        return "another device than a GPU"
    foreign = [m for m in network.modules() if not type(m).__module__.startswith(REPEATABLE)]
    if foreign:
        return f"{type(foreign[0]).__name__}, which may do something else at each call"
    if type(network.encoder) is not Direct:
        return "an encoder other than direct"
    neurons = [module for module in network.modules() if isinstance(module, Neuron)]
    return next((f"backend={n.backend}" for n in neurons if n.backend != "auto"), None)


class CudaGraph(Generic[Outputs]):
    """A function of tensors whose work on a GPU is recorded once, and then launched as a whole.

    The first `WARM_UP_CALLS` calls run it as it is, the next one records it. Calls with tensors of
    another shape, and those while a module of a network has a hook, run it as it is.

    Args:
        function: of tensors on the GPU; it launches the same kernels each time, on memory that
            stays where it is, and never waits for the GPU. What it does beside that happens in
            the first calls alone.
        networks: those that it calls, without a `graph_obstacle`.
    """

    def __init__(self, function: Callable[..., Outputs], *networks: nn.Module) -> None:
        self._function = function
        self._device = next(networks[0].parameters()).device
        modules = [module for network in networks for module in network.modules()]
        self._hooks = [hooks for module in modules for hooks in hooks_of(module)]
        self.forget()

    def forget(self) -> None:
        """Memory was exchanged that the function works on: record it anew."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self, *inputs: Tensor) -> Outputs:
        """What the function answers; the next call writes over it.

        Args:
            inputs: on any device.
        """
        # A replay calls no module, and so no hook.
        if any(self._hooks):
            return self._plain(inputs)
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP_CALLS:
                return self._plain(inputs)
            # Clones, because the graph reads this memory at every replay.
            self._held = [moved.clone() for moved in self._moved(inputs)]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(self._device), torch.cuda.graph(self._graph):
                self._outputs = self._function(*self._held)
        if any(held.shape != given.shape for held, given in zip(self._held, inputs, strict=True)):
            return self._plain(inputs)
        for held, given in zip(self._held, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _plain(self, inputs: tuple[Tensor, ...]) -> Outputs:
        # On a stream of its own, as the recording is: what autograd keeps belongs to a stream.
        now = torch.cuda.current_stream(self._device)
        own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        own.wait_stream(now)
        with torch.cuda.stream(own):
            outputs = self._function(*self._moved(inputs))
        now.wait_stream(own)
        return outputs

    def _moved(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [given.to(self._device, non_blocking=True) for given in inputs]
