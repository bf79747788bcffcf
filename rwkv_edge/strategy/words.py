"""The words for weight formats."""

# Strategy word -> (weight format, precision of activations and state); None: as stored, the backend's own.
WEIGHT_FORMATS: dict[str, tuple[str | None, str | None]] = {
    "fp32": ("f32", "fp32"),
    "fp16": ("f16", None),
    "fp16i8": ("q8_0", None),
    "int8": ("q8_0", None),
    "q8_0": ("q8_0", None),
    "q8": ("q8_0", None),
    "q4": ("q4_0", None),
    "q4_0": ("q4_0", None),
    "fp64": (None, "fp64"),
}
FP64_DEVICES = ("numpy",)


def words_for(device: str) -> list[str]:
    """Those that a strategy may have behind this device."""
    return [word for word in WEIGHT_FORMATS if word != "fp64" or device in FP64_DEVICES]
