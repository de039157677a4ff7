"""One backward pass for the parts of all units' gradients, as a grad-sample mode of Opacus.

Layers that `per_unit` knows keep their inputs and the gradients at their outputs, and nothing is
computed for a single unit. All other layers have Opacus' own hooks, in the same model and pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from opacus import GradSampleModule
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from dp_risk.privacy import per_unit
from dp_risk.privacy.per_unit import Dense, Part
from dp_risk.privacy.units import Batch, loss_gradients


class _Call(NamedTuple):
    layer: nn.Module
    inputs: torch.Tensor
    version: int
    shape: torch.Size
    edge: GradientEdge


class OnePass(GradSampleModule):  # type: ignore[misc]
    """A module whose backward pass gives the parts of each unit's gradient.

    A layer that is called several times in a pass is known. Layers that share a parameter with
    another one have Opacus' hooks, which add up what belongs together.

    Parameters
    ----------
    module : Module
        The first axis of everything in it is the unit. It holds hooks until
        `to_standard_module`.

    Raises
    ------
    NotImplementedError
        If a trained layer has buffers (Opacus' own check).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, batch_first=True, loss_reduction="sum")

    def add_hooks(self, **options: Any) -> None:
        """Keep what known layers read; all others get Opacus' hooks."""
        self._known: list[nn.Module] = []
        self._calls: list[_Call] = []
        uses = Counter(
            id(p) for m in self._module.modules() for p in m._parameters.values() if p is not None
        )
        layers = list(self.iterate_submodules(self._module))
        self._known = [
            layer
            for layer in layers
            if per_unit.known(layer) and all(uses[id(p)] == 1 for p in layer.parameters())
        ]
        self._hooked = len(layers) > len(self._known)
        super().add_hooks(**options)
        for layer in self._known:
            handle = layer.register_forward_hook(self._keep)
            self._module.autograd_grad_sample_hooks.append(handle)

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """Yield the layers that are to have Opacus' hooks."""
        known = self._known
        return (m for m in super().iterate_submodules(module) if all(m is not k for k in known))

    def _keep(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        if self.hooks_enabled and torch.is_grad_enabled():
            read = inputs[0].detach()
            # The edge stays that of the layer's own output if that is then changed in place; a
            # view's would not, and a linear layer may return its product in another shape.
            base = out._base if out._is_view() else None
            source = out
            if base is not None and base.numel() == out.numel():
                source = base if base.is_contiguous() and out.is_contiguous() else out
            edge = get_gradient_edge(source)
            self._calls.append(_Call(layer, read, read._version, out.shape, edge))

    def parts(self, outputs: torch.Tensor, errors: torch.Tensor) -> list[Part]:
        """Finish the pass that gave some outputs.

        Parameters
        ----------
        outputs : Tensor, shape (units, ...)
            What the last call of this module returned.
        errors : Tensor of the same shape
            Gradients of the sum of the units' losses.

        Returns
        -------
        list of Part
            The gradient of each unit in all parameters that are trained; no two overlap.

        Raises
        ------
        RuntimeError
            If there is not one gradient a unit, as in a model that flattens accounts into records,
            if what a layer read was changed after it, or if a trained layer is not used.
        """
        calls, self._calls = self._calls, []
        trained = [p for p in self._module.parameters() if p.requires_grad]
        # Opacus' hooks want the whole pass; else no gradient of a weight is computed.
        wanted = [*(call.edge for call in calls), *(trained if self._hooked else [])]
        found = torch.autograd.grad(outputs, wanted, errors, allow_unused=True)
        together: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for call, error in zip(calls, found, strict=False):
            if call.inputs._version != call.version:
                raise RuntimeError("what a layer read was changed in place")
            if error is None:
                raise RuntimeError("what a layer returned was not used")
            errors_of = error.reshape(call.shape)
            together.setdefault(call.layer, []).append((call.inputs, errors_of))
        parts: list[Part] = []
        for layer, passes in together.items():
            _expect(len(outputs), [t for both in passes for t in both])
            inputs, backprops = passes[0]
            if len(passes) > 1:
                inputs, backprops = per_unit.called_often(layer, *zip(*passes, strict=True))
            parts += per_unit.parts(layer, inputs, backprops)
        if self._hooked:
            own = {id(p) for layer in self._known for p in layer.parameters()}
            for p in trained:
                if id(p) not in own:
                    _expect(len(outputs), [p.grad_sample])
                    parts.append(Dense(parameter=p, gradients=p.grad_sample.to(torch.float64)))
                    p.grad_sample = None
        return parts

    def backward(self, batch: Batch) -> tuple[torch.Tensor, list[Part]]:
        """Return the logits of a batch that the model can read, and the parts as `parts` does."""
        logits = self(*batch.inputs)
        return logits.detach(), self.parts(logits, loss_gradients(logits.detach(), batch))

    def forget(self) -> None:
        """Drop what is held of a pass that was not finished."""
        self._calls = []
        for module in self._module.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for p in self._module.parameters():
            p.__dict__.pop("_current_grad_sample", None)
            p._forward_counter = 0
            p.grad_sample = p.grad = None

    def close(self) -> None:
        """Leave the module as it was."""
        self.forget()
        self.to_standard_module()


def written_out(module: nn.Module, records: int) -> int:
    """Return how many coordinates of a gradient are written out for every unit, at least 1.

    Parameters
    ----------
    module : Module
        As `OnePass` takes it.
    records : int
        Of each unit.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    known: set[int] = set()
    if records == 1:
        products = (m for m in module.modules() if per_unit.known(m, products=True))
        known = {id(p) for layer in products for p in layer.parameters()}
    return max(1, sum(p.numel() for p in trained if id(p) not in known))


def _expect(units: int, tensors: Sequence[torch.Tensor]) -> None:
    if any(len(t) != units for t in tensors):
        raise RuntimeError("per-unit gradients of another number than the units")
