"""The bundled model with all its matrices in one format, by our encoders and by ggml's: how far its predictions move from those
of its floats (KL divergence, nats a token). Computed in float32 from the decoded blocks. Of whole files: bench.reference_files.

    python -m bench.encode_kl [--formats q4_0,q4_k] [--text FILE ...] [--save]
"""
import argparse

from bench import reference_encoder
from bench.held_out import HeldOut, Scores, in_float32, matrices, with_tensors
from bench.table import Row, report
from rwkv_edge import auto
from rwkv_edge.backend import Encoder
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.weights.tensor import Weights


def divergence(formats: list[str], texts: list[str]) -> list[Row]:
    text, rows = HeldOut(texts), []
    weights = in_float32(text.weights)
    encoders: dict[str, Encoder] = {"ours": auto.encoder()}
    if reference_encoder.available():
        encoders["reference"] = reference_encoder.encode
    for format in formats:
        found = {name: text.score(_through(encode, format, weights)) for name, encode in encoders.items()}
        row: Row = {"format": format, **{f"KL {name}": f"{score.kl_mean:.6f}" for name, score in found.items()}}
        rows.append(row | (ratios(found["ours"], found["reference"]) if "reference" in found else {}))
    return rows


def ratios(ours: Scores, reference: Scores) -> Row:
    return {
        "ratio": f"{ours.kl_mean / reference.kl_mean:.3f}",
        "ratio of 99th percentiles": f"{ours.kl_p99 / reference.kl_p99:.3f}",
    }


def _through(encode: Encoder, format: str, weights: Weights) -> Weights:
    found = matrices(weights)
    return with_tensors(weights, {name: decode_blocks(encode(format, t.decode()), format) for name, t in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(("q8_0", *SCHEMES)))
    parser.add_argument("--text", nargs="+", default=[], help="files to predict (default: some of Python's own)")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    report("encode_kl", divergence(options.formats.split(","), options.text), [], options.save)


if __name__ == "__main__":
    main()
