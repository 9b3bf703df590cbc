"""What the parts of a pretrainer hold and cost, and how they attend."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xtra_toolkit.attention import BACKENDS, Pattern, choose, get_attention
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.models.layers import MaskedAttention

FLOPS = (
    "one image forward, counted by torch.utils.flop_counter on the meta device: matrix products, "
    "2 for a multiplication and addition; attention over all pairs of computed positions"
)


@dataclass(frozen=True)
class ModelPart:
    """Encoder, decoder or head.

    Args:
        places: what it computes: '240 of 256', of each mask where an image has several.
        attention: kind of its pattern and the back end that will run here.
        parameters: all, whether trained or not.
        flops: of one image, forward.
    """

    name: str
    places: str
    attention: str
    parameters: int
    flops: int


def parts(model: MaskTargetPretrainer, device: str) -> list[ModelPart]:
    """The parts of a pretrainer on the meta device; ``device`` is where it would train."""
    plan = model.objective(2, torch.device(device), torch.Generator(device).manual_seed(0))
    encoder, decoder, head = flops(model)
    length = plan.length
    predictions = plan.masks_per_image * sum(group.tokens.shape[1] for group in plan.groups)
    target = ModelPart("target", "", "", count(model.target_generator), values_flops(model))
    found = [
        ModelPart(
            "encoder",
            f"{plan.encoded_tokens.shape[1]} of {length}",
            backend(model.backbone.layers, plan.encoder, device),
            count(model.backbone),
            encoder,
        )
    ]
    if model.with_neck:
        runs = backend(model.neck.layers, plan.decoder, device)
        found += [
            ModelPart(
                "decoder", f"{plan.num_computed} of {length}", runs, count(model.neck), decoder
            )
        ]
    found.append(ModelPart("head", f"{predictions} predictions", "", count(model.head), head))
    return found + [target] * bool(target.parameters or target.flops)  # a teacher; pixels are free


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in module.parameters())


def values_flops(model: MaskTargetPretrainer) -> int:
    """Of what is predicted of one image, a teacher's features for instance."""
    grid = model.backbone.grid
    sides = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    with FlopCounterMode(display=False) as counter, on_sdpa(model), torch.no_grad():
        model.target_generator.values(torch.empty(1, grid.channels, *sides, device="meta"), grid)
    return counter.get_total_flops()


@contextlib.contextmanager
def on_sdpa(model: nn.Module) -> Iterator[None]:
    """Within it attention runs on SDPA: not every back end runs on the meta device."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, MaskedAttention):
                stack.callback(setattr, module, "attention", module.attention)
                module.attention = get_attention("sdpa")
        yield


def flops(model: MaskTargetPretrainer) -> tuple[int, int, int]:
    """Of encoder, decoder and head: one image forward, see :data:`FLOPS`."""
    grid, meta = model.backbone.grid, torch.device("meta")
    sides = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    images = torch.empty(1, grid.channels, *sides, device=meta)
    plan = model.objective(1, meta, torch.Generator().manual_seed(0))
    counter, before = FlopCounterMode(display=False), {}
    later = [model.neck, model.head] if model.with_neck else [model.head]
    with contextlib.ExitStack() as stack:
        for part in later:
            hook = part.register_forward_pre_hook(
                lambda part, _: before.update({part: counter.get_total_flops()})
            )
            stack.callback(hook.remove)
        with counter, on_sdpa(model), torch.no_grad():
            model.reconstruct(images, plan)
    encoder, head = before[later[0]], before[model.head]
    return encoder, head - encoder, counter.get_total_flops() - head


def backend(layers: nn.ModuleList, pattern: Pattern, device: str) -> str:
    """'staircase, sdpa': the pattern's kind and the back end that training takes on a device."""
    attention = next((layer.attn for layer in layers), None)
    if not isinstance(attention, MaskedAttention):
        return "none, each token on its own"  # AIM's head, or no layers at all
    asked = attention.attention.keywords["backend"]
    query = training_query(pattern, attention.num_heads, attention.head_dims, device)
    if asked == "auto":
        return f"{pattern.kind}, {choose(query, pattern)}"
    reason = BACKENDS[asked].unsupported_reason(query, pattern)
    return f"{pattern.kind}, {asked}" + (f" cannot serve: {reason}" if reason else "")


def backends(model: MaskTargetPretrainer, device: str) -> str:
    """On which device and for which inputs the back ends were asked, and why not xformers."""
    if device == "cpu":
        return "of training on this machine: a CPU, float32"
    plan = model.objective(2, torch.device(device), torch.Generator(device).manual_seed(0))
    attention = model.backbone.layers[0].attn
    query = training_query(plan.encoder, attention.num_heads, attention.head_dims, device)
    reason = BACKENDS["xformers"].unsupported_reason(query, plan.encoder)
    name = torch.cuda.get_device_name()
    return f"of training on this machine: {name}, bfloat16" + (f"; {reason}" if reason else "")


def training_query(pattern: Pattern, heads: int, dim: int, device: str) -> Tensor:
    """(2, N, heads, dim) as AutocastOptimWrapper makes it: bf16 on a GPU, fp32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = (2, pattern.length, heads, dim)
    return torch.empty(shape, dtype=dtype, device=device, requires_grad=True)
