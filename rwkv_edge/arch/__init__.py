"""Model versions: weights in, Plan out. One file a version; this one holds what all versions share."""
import re
from collections.abc import Callable
from dataclasses import replace

from rwkv_edge.arch import rwkv4, rwkv5, rwkv6, rwkv7
from rwkv_edge.arch.layer import Layer
from rwkv_edge.arch.shape import ModelShape, read_shape
from rwkv_edge.errors import ModelFileError
from rwkv_edge.plan import Buffer, Plan, PlanBuilder
from rwkv_edge.weights.tensor import Weights

__all__ = ["ModelShape", "build_plan", "read_shape"]

Block = Callable[[Layer, Buffer], Buffer]
BLOCKS: dict[str, Block] = {
    "4": rwkv4.block,
    "5.0": rwkv5.block,
    "5.1": rwkv5.block,
    "5.2": rwkv5.block,
    "6": rwkv6.block,
}
# Version 7's first layer has nothing to mix its values with, but many files carry the tensors for it, others not.
UNUSED = re.compile(r"blocks\.0\.att\.v[012]")


def build_plan(weights: Weights) -> Plan:
    """The model as a list of ops. Raises ModelFileError where a tensor is missing, misshapen or unknown."""
    shape = read_shape(weights)
    p = PlanBuilder()
    model = Layer(p, weights, shape, norm_eps=weights.hints.layer_norm_eps)
    rescale = weights.hints.rescale_every_n_layers
    p.begin_layer()
    x = model.scope("blocks.0").layer_norm(p.embed(model.matrix("emb", shape.n_vocab)), "ln0")
    v_first: Buffer | None = None
    for i in range(shape.n_layer):
        layer = model.scope(f"blocks.{i}")
        if i:
            p.begin_layer()
        if shape.version == "7":
            x, v_first = rwkv7.block(layer, x, v_first)
        else:
            x = BLOCKS[shape.version](layer, x)
        # The file's output matrices are divided by 2 for every n layers: the stream has to follow.
        if rescale and (i + 1) % rescale == 0:
            x = p.scale(x, 0.5)
            model = replace(model, norm_eps=model.norm_eps / 4)  # so that the norms of the halved stream are the same
    p.begin_layer()
    x = model.layer_norm(p.select_outputs(x), "ln_out")
    logits = model.matmul(x, "head", shape.n_vocab)
    _refuse_unknown(weights, shape, model.used)
    return p.finish(logits)


def _refuse_unknown(weights: Weights, shape: ModelShape, used: set[str]) -> None:
    """A tensor that nothing asked for means a variant that would compute something else with it."""
    for name in weights.tensors:
        if name not in used and not UNUSED.fullmatch(name):
            known = f"RWKV-{shape.version}"
            raise ModelFileError(f"{weights.path}: an unknown variant of {known}: it has tensor {name}, which {known} has not")
