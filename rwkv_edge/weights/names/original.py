"""BlinkDL's own names, which are ours too: .pth files and the safetensors made of them."""
from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Weights


def recognise(raw: RawFile) -> bool:
    return "emb.weight" in raw.tensors and any(name.startswith("blocks.") for name in raw.tensors)


def to_ours(raw: RawFile) -> Weights:
    """The names stay; low-rank matrices are transposed and vectors flattened (views)."""
    if "_strategy" in raw.metadata or "_rescale_layer" in raw.metadata:
        # convert_model.py of the rwkv package: transposed, divided and perhaps quantized for that one strategy.
        raise ModelFileError(f"{raw.path}: was converted for one strategy of the rwkv package; open the original .pth")
    return weights_of(raw, raw.tensors.values(), low_rank_in_out=True)
