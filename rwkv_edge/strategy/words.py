"""The words for weight formats."""
from rwkv_edge import registry
from rwkv_edge.convert.conversions import WORDS

# Strategy word -> (type of the weights, precision of activations and state); None: as stored, the backend's own.
WEIGHT_FORMATS: dict[str, tuple[str | None, str | None]] = {
    **{word: (meaning.type, meaning.precision) for word, meaning in WORDS.items()},
    "fp64": (None, "fp64"),
}


def words_for(device: str) -> list[str]:
    """Those that a strategy may have behind this device: in a precision that the backend computes in."""
    precisions = (None, *registry.traits(device).precisions)
    return [word for word, (_, precision) in WEIGHT_FORMATS.items() if precision in precisions]
