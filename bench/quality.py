"""Quality and size of all types that `rwkv-edge quantize` makes, on the bundled model: a table and a picture.

    python -m bench.quality [--types q4,q8_0] [--save]

Every file is made and run as a user would (on the fastest backend, which rounds activations to 8 bits for blocks), on text that
the model was not trained on. Types of which llama-quantize makes the same file of an RWKV share a row. "--calibrate": with the
text of some other modules. "1.5B": the tensors of an RWKV-7 of that size, computed from its shapes.
"""
import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.held_out import HeldOut, calibration_text
from bench.picture import Point, scatter
from bench.random_weights import recipes
from bench.sizes import Sizes
from bench.table import RESULTS, Row, report
from rwkv_edge import quantize
from rwkv_edge.convert.mix import MIXES, Mix
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights import open_weights

CALIBRATED = ("q4", "q4_k_m", "iq3_s", "q2_k")
OURS = ("q4", "q8")
LARGE = Sizes("7", 24, 2048)


def rows_of_types(chosen: Sequence[str]) -> list[tuple[str, str, bool]]:
    """(label, a type, calibrated) for each file that differs."""
    same: dict[Mix, list[str]] = {}
    for type in chosen:
        same.setdefault(replace(MIXES[type], file_type=0), []).append(type)
    plain = [(" ".join(types), types[0], False) for types in same.values()]
    return plain + [(f"{type} --calibrate", type, True) for type in CALIBRATED if type in chosen]


def megabytes(mix: Mix) -> float:
    """Of a 1.5B model's tensors."""
    shapes = {name: recipe.shape for name, recipe in recipes(LARGE, 0).items()}
    return sum(FORMATS[mix.format(name, shape, "bf16")].nbytes(shape) for name, shape in shapes.items()) / 1e6


def measured(text: HeldOut, folder: Path, label: str, type: str, calibrated: bool) -> tuple[Row, Point]:
    quantize(MODEL_PATH, folder / "model.gguf", type, calibrate=folder / "calibration.txt" if calibrated else None)
    weights = open_weights(folder / "model.gguf")
    score = text.score(weights)
    per_weight = weights.nbytes / sum(tensor.size for tensor in text.weights.tensors.values())
    row: Row = {
        "type": label,
        "perplexity": f"{score.perplexity:.4f}",
        "over f32": f"{100 * (score.perplexity / text.perplexity - 1):+.2f} %",
        "KL mean": f"{score.kl_mean:.6f}",
        "KL p99": f"{score.kl_p99:.5f}",
        "same top-1": f"{100 * score.top1_agreement:.2f} %",
        "bytes a weight": f"{per_weight:.3f}",
        "1.5B, MB": f"{megabytes(MIXES[type]):.0f}",
    }
    short = f"{type} --calibrate" if calibrated else "q8, q8_0" if type == "q8_0" else type
    return row, Point(short, per_weight, score.kl_mean, ours=type in OURS or type == "q8_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(MIXES))
    parser.add_argument("--save", action="store_true", help="keep the table and the picture in bench/results")
    options = parser.parse_args()
    text = HeldOut()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "calibration.txt").write_bytes(calibration_text())
        found = [measured(text, Path(folder), *row) for row in rows_of_types(options.types.split(","))]
    notes = [f"{len(text.tokens)} bytes of held-out text; perplexity per byte, KL divergence from f32 in nats a token."]
    report("quality", [row for row, _ in found], notes, options.save)
    if options.save:
        blocks = [point for _, point in found if point.y > 0.5e-6]  # floats: no logarithm of 0
        title = "Quality and size of the bundled model's files (lower left is better)"
        picture = scatter(blocks, title, "bytes a weight, whole file", "KL divergence from f32, nats a token")
        (RESULTS / "quality.svg").write_text(picture)


if __name__ == "__main__":
    main()
