"""The bundled model as whole files, by `rwkv_edge.quantize` and by llama-quantize: sizes, and how far predictions move from
those of its floats (KL divergence, nats a token). Both run on our fastest backend, straight from their blocks.

    python -m bench.reference_files [--types q8_0,q4_k_m] [--save]

Needs llama-cpp-python. llama-quantize gets a bf16 GGUF of the model, which has the numbers of its .pth.
"""
import argparse
import tempfile
from pathlib import Path

from bench.encode_kl import ratios
from bench.held_out import HeldOut
from bench.llama_quantize import quantize as llama_quantize
from bench.table import Row, report
from rwkv_edge import quantize
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.weights import open_weights

TYPES = "q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_nl,iq3_s"  # that are asked for; q5_0, q4_1, iq4_xs, q3_k_m and q2_k work too


def compared(text: HeldOut, folder: Path, type: str) -> Row:
    paths = {"ours": folder / f"ours-{type}.gguf", "reference": folder / f"theirs-{type}.gguf"}
    quantize(MODEL_PATH, paths["ours"], type)
    llama_quantize(folder / "bf16.gguf", paths["reference"], type)
    weights = {name: open_weights(path) for name, path in paths.items()}
    found = {name: text.score(w) for name, w in weights.items()}
    row: Row = {"type": type}
    for name, score in found.items():
        row |= {
            f"bytes {name}": str(weights[name].nbytes),
            f"KL {name}": f"{score.kl_mean:.6f}",
            f"perplexity {name}": f"{100 * (score.perplexity / text.perplexity - 1):+.3f} %",
        }
    return row | ratios(found["ours"], found["reference"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    text = HeldOut()
    with tempfile.TemporaryDirectory() as folder:
        quantize(MODEL_PATH, Path(folder) / "bf16.gguf", "bf16")
        rows = [compared(text, Path(folder), type) for type in options.types.split(",")]
    notes = [f"{len(text.tokens)} bytes of held-out text; perplexity {text.perplexity:.4f} in float32, others relative to it."]
    report("reference_files", rows, notes, options.save)


if __name__ == "__main__":
    main()
