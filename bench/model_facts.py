"""What a step has to read and multiply, from a model file's header."""
import math
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import read_shape
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.tensor import Tensor


@dataclass(frozen=True)
class ModelFacts:
    """bytes_per_token: of all weights but the embedding, of which a step reads one row.

    prompt_macs: multiplications with matrices for a token of a prompt, of which only the last one needs the head.
    """

    path: Path
    version: str
    file_bytes: int
    bytes_per_token: int
    prompt_macs: int
    n_vocab: int

    def tokens(self, count: int) -> list[int]:
        """Token ids spread over the vocabulary, so that embedding rows are not in the cache by chance."""
        return [1 + i * 7919 % (self.n_vocab - 16) for i in range(count)]


def model_facts(path: Path) -> ModelFacts:
    weights = open_weights(path)
    shape = read_shape(weights)
    body = {name: tensor for name, tensor in weights.tensors.items() if name != "emb.weight"}
    macs = sum(tensor.size for name, tensor in body.items() if name != "head.weight" and _is_matrix(tensor))
    bytes_per_token = sum(tensor.nbytes for tensor in body.values())
    return ModelFacts(path, shape.version, path.stat().st_size, bytes_per_token, macs, shape.n_vocab)


def _is_matrix(tensor: Tensor) -> bool:
    return math.prod(tensor.shape) > 2 * max(tensor.shape) and max(tensor.shape) >= 64
