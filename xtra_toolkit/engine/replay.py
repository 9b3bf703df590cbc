"""Repeat a training step and find the layer that gave the first value that is not finite."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.utils import _pytree as pytree

from xtra_toolkit.utils.delayed_read import agreed
from xtra_toolkit.utils.unwrap import unwrap_model


class Batch(NamedTuple):
    """A micro-batch as the data loader gave it, and the random states before it."""

    data: Any
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def of(cls, data: Any) -> "Batch":
        """Return ``data`` with the present random states."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return cls(data, torch.get_rng_state(), cuda)

    @contextmanager
    def drawn_again(self) -> Iterator[None]:
        """Let torch draw the same numbers as it did for this batch."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else None):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda)
            yield

    def saved(self) -> dict:
        """Return an object for ``torch.save`` that loads with ``weights_only=True``."""
        return {"data": plain(self.data), "cpu_rng_state": self.cpu, "cuda_rng_state": self.cuda}


def plain(value: Any) -> Any:
    """Convert a batch to CPU tensors, numbers and strings; other objects to their ``repr``."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, BaseDataElement):
        return {key: plain(item) for key, item in value.all_items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else repr(value)


class Backward:
    """Stand-in for an optimizer wrapper in ``train_step``: gradients without an update."""

    def __init__(self, wrapper: Any, sharded: bool):
        self.wrapper, self.optim_context = wrapper, wrapper.optim_context
        self.sharded, self.loss = sharded, torch.zeros(())

    def update_params(self, loss: Tensor) -> None:
        """Run the backward pass, without counting it."""
        self.loss, count = loss, self.wrapper._inner_count
        found = loss.detach()
        found = agreed(found) if self.sharded else found  # then all processes make it or none
        if found.isfinite():
            self.wrapper.backward(loss)
            self.wrapper._inner_count = count


def where_it_began(model: nn.Module, wrapper: Any, batches: list[Batch]) -> tuple[str, Batch]:
    """Return a sentence on the first value that is not finite, and the batch that gave it.

    The step is repeated without its update. All processes must call this, because a loss may
    reduce over them.
    """
    inner = unwrap_model(model)
    sharded = isinstance(model, FullyShardedDataParallel)
    model = model if sharded else inner  # it has the weights
    spoiled = [name for name, p in inner.named_parameters() if not p.isfinite().all()]
    whole = torch.tensor(math.nan if spoiled else 0.0)
    if not (agreed(whole) if sharded else whole).isfinite():
        first = clean_tensor_name(spoiled[0]) if spoiled else "in another process"
        return f"Weights are not finite themselves, first {first}.", batches[0]
    found = [(_replay(model, wrapper, batch, sharded), batch) for batch in batches]
    known = [(sentence, batch) for sentence, batch in found if sentence]
    clean = (
        "In a replay of the step all was finite: only the norm of the gradients overflowed, or it "
        "did not come from the batch alone."
    )
    return known[0] if known else (clean, batches[0])


def _replay(model: nn.Module, wrapper: Any, batch: Batch, sharded: bool) -> str | None:
    places, step = [], Backward(wrapper, sharded)
    inner = unwrap_model(model)
    uncompiled = torch.compiler.set_stance("force_eager")  # a compiled loss calls no hooks
    with batch.drawn_again(), watched(inner, places), uncompiled:
        model.train_step(batch.data, step)
    wrapper.zero_grad()
    if places:
        return f"It began in {places[0]}."
    return None if step.loss.isfinite() else "It began in the loss; all layers gave finite values."


@contextmanager
def watched(model: nn.Module, places: list[str]) -> Iterator[None]:
    """Collect in ``places`` the layers and parameters in the order in which they fail."""

    def check(values: Any, place: str) -> None:
        tensors = [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]
        if not all(v.isfinite().all() for v in tensors if v.is_floating_point()):
            places.append(place)

    def forward(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            layer = f"{name or 'the model'} ({type(module).__name__})"
            check(output, f"the forward pass of {layer}")
            place = f"the backward pass: the gradient at the output of {layer}"
            for value in pytree.tree_leaves(output):
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(lambda grad: check(grad, place))

        return hook

    def parameter(name: str) -> Any:
        return lambda grad: check(grad, f"the backward pass: the gradient of {name}")

    handles = [module.register_forward_hook(forward(name)) for name, module in named(model)]
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    handles += [p.register_hook(parameter(name)) for name, p in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules; inner modules come before those that contain them."""
    for name, module in model.named_modules():
        if module is not model and not is_model_wrapper(module):  # of a sharded layer
            yield clean_tensor_name(f"{name}.")[:-1], module
