"""A short name for a model's identity, the same whatever file format or quantization it came in."""

import hashlib

import numpy as np

from rwkv_edge.arch.shape import read_shape
from rwkv_edge.errors import ModelFileError
from rwkv_edge.quant.floats import bf16_bits
from rwkv_edge.weights.tensor import Weights


def fingerprint(weights: Weights) -> str:
    """For example "rwkv7-24x2048-4f1c22aa90d1b3e7": version, layers, width, and a hash of some small weights.

    Hashed are the weights of the final layer norm and of each layer's first one: every format keeps them as plain
    floats, training changes them, and they are small. They are rounded to bfloat16, in which RWKV models are published:
    the .pth, its GGUF in any quantization and a float32 copy all get the same name. A fine-tune that leaves these norms
    alone keeps its base model's name; their states have the same layout and may be exchanged. A LoRA that was merged while
    loading is part of the name ("+lora-" and its hash): whoever keeps it in a file of its own tells the two apart.

    Raises ModelFileError where the tensors are missing.
    """
    shape = read_shape(weights)
    digest = hashlib.sha256(f"{shape.version} {shape.n_layer} {shape.n_embd} {shape.n_head}".encode())
    for name in (*(f"blocks.{i}.ln1.weight" for i in range(shape.n_layer)), "ln_out.weight"):
        tensor = weights.tensors.get(name)
        if tensor is None or tensor.size != shape.n_embd:
            raise ModelFileError(f"{weights.path}: tensor {name} is missing or is not a vector of {shape.n_embd}")
        digest.update(bf16_bits(tensor.decode(np.float32)).tobytes())
    adapter = f"+lora-{weights.adapter}" if weights.adapter else ""
    return f"rwkv{shape.version}-{shape.n_layer}x{shape.n_embd}-{digest.hexdigest()[:16]}{adapter}"
