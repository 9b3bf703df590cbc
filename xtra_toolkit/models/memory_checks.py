"""Check what a decoder reads of the encoder, and what the heads read of the decoder."""

import torch
from torch import nn

from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.models.sum_of_heads import SumOfHeads
from xtra_toolkit.objective.compiler import Outline
from xtra_toolkit.objective.links import drop_context, gather_positions


def check_memory(neck: Decoder, backbone: nn.Module, outline: Outline) -> None:
    """Check the layers that a decoder reads, and that each of its mask tokens sees something.

    Args:
        neck: The decoder.
        backbone: The encoder.
        outline: The mask and the links of the target.

    Raises:
        ValueError: The decoder reads other layers than there are, parts of the encoder would not be
            trained, or the mask lets a prediction see nothing that is encoded.
    """
    layers, depth = list(neck.memory_layers), backbone.num_layers
    if layers and (layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] != depth):
        raise ValueError(
            f"memory_layers={layers} was given; they must ascend from 0 (the embedded tokens) or "
            f"more to {depth}, the output of the encoder's last layer"
        )
    if layers and (backbone.final_norm or backbone.fusion is not None):
        raise ValueError(
            "memory_layers are read before the encoder's final norm and without fused_layers, "
            "which nothing would train; set backbone.final_norm=False and leave fused_layers out"
        )
    if not neck.cross:
        return
    for mask in outline.samples:
        encoded = torch.atleast_2d(mask.visible_or_all()) | outline.mask_tokens
        sees = (mask.of_decoder().attention_mask() & encoded[:, None]).any(-1)
        fixed = not outline.mask.random  # what is no context in one draw may be in another
        for group in drop_context(mask, outline.links) if fixed else outline.links:
            seen = gather_positions(sees, group.source_positions)
            if not seen.all():
                source = group.source_positions.expand_as(seen)[~seen][0]
                raise ValueError(
                    f"position {int(source)} may attend to nothing that is encoded under "
                    f"{type(outline.mask).__name__}, so a mask token of a CrossDecoder would read "
                    "nothing; take a ViTDecoder, or a mask that shows a token before it"
                )


def check_reads(neck: Decoder | None, head: PredictionHead | SumOfHeads) -> None:
    """Check that the heads read all outputs that the decoder returns; raise a ValueError if not."""
    outputs, reads = 1 if neck is None else neck.outputs, head.reads
    if set(reads or ()) != set(range(outputs) if outputs > 1 else ()):
        raise ValueError(
            f"head.reads={reads} was given, and the decoder returns {outputs} output(s); "
            + (
                "leave reads out"
                if outputs == 1
                else f"take a SumOfHeads, and name each index from 0 to {outputs - 1} once or more"
            )
        )
