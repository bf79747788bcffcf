"""The words for weight formats."""
from rwkv_edge.convert.conversions import WORDS

# Strategy word -> (type of the weights, precision of activations and state); None: as stored, the backend's own.
WEIGHT_FORMATS: dict[str, tuple[str | None, str | None]] = {
    **{word: (meaning.type, meaning.precision) for word, meaning in WORDS.items()},
    "fp64": (None, "fp64"),
}
FP64_DEVICES = ("numpy",)


def words_for(device: str) -> list[str]:
    """Those that a strategy may have behind this device."""
    return [word for word in WEIGHT_FORMATS if word != "fp64" or device in FP64_DEVICES]
