"""What 4 bits cost in each group of tensors of the bundled model, and what mixes of formats make of it.

    python -m bench.policy [--format q4_k] [--save]

The first table quantizes one group at a time, the rest is float32; the second a whole model. Weights are decoded before the
run, so that only their errors count. Saved: against Q8_0. `q4` of rwkv_edge/convert/mix.py was chosen by it.
"""
import argparse
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bench.held_out import Floats, HeldOut, Scores, in_float32, with_tensors
from bench.table import Row, publish, render
from rwkv_edge import auto
from rwkv_edge.convert.mix import MATRIX, MIXES, Mix
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Weights

LAYERS = r"blocks\.\d+\.(att|ffn)\.\w+\.weight"
GROUPS = {
    "time-mix receptance": r"blocks\.\d+\.att\.receptance\.weight",
    "time-mix key": r"blocks\.\d+\.att\.key\.weight",
    "time-mix value": r"blocks\.\d+\.att\.value\.weight",
    "time-mix output": r"blocks\.\d+\.att\.output\.weight",
    "channel-mix key": r"blocks\.\d+\.ffn\.key\.weight",
    "channel-mix value": r"blocks\.\d+\.ffn\.value\.weight",
    "all of the first layer": r"blocks\.0\.(att|ffn)\.\w+\.weight",
    "of the second": r"blocks\.1\.(att|ffn)\.\w+\.weight",
    "of the third": r"blocks\.2\.(att|ffn)\.\w+\.weight",
    "of the last": r"blocks\.3\.(att|ffn)\.\w+\.weight",
    "embedding": r"emb\.weight",
    "head": r"head\.weight",
    "low-rank maps": r"blocks\.\d+\.att\.[wavg][12]",
}
TIME_MIX = r"blocks\.\d+\.att\.(key|value|output)\.weight"
ENDS = r"blocks\.(0|3)\..*"
FOUR = Mix("q4_k", "q8_0", "q8_0", 0)
CANDIDATES = {
    "Q4_K, embedding and head too": replace(FOUR, head="q4_k", embedding="q4_k"),
    "Q4_K, head Q6_K (llama-quantize's Q4_K_M)": MIXES["q4_k_m"],
    "Q4_K, embedding and head Q6_K": replace(FOUR, head="q6_k", embedding="q6_k"),
    "Q4_K, embedding and head Q8_0": FOUR,
    "same, time-mix output Q5_K": replace(FOUR, exceptions=((r"blocks\.\d+\.att\.output\.weight", "q5_k"),)),
    "same, time-mix key, value, output Q5_K": replace(FOUR, exceptions=((TIME_MIX, "q5_k"),)),
    "same, time-mix key, value, output Q6_K": replace(FOUR, exceptions=((TIME_MIX, "q6_k"),)),
    "same, first and last layer Q5_K": replace(FOUR, exceptions=((ENDS, "q5_k"),)),
    "Q5_K, embedding and head Q8_0": replace(FOUR, matrices="q5_k"),
    "Q6_K, embedding and head Q8_0": replace(FOUR, matrices="q6_k"),
    "Q8_0": MIXES["q8"],
}


def bits(format: str) -> float:
    return 8 * FORMATS[format].block_bytes / FORMATS[format].block_size


def through(x: Floats, format: str) -> Floats:
    """What the blocks hold; along the columns where the rows are no whole blocks."""
    if x.shape[1] % FORMATS[format].block_size:
        return np.ascontiguousarray(through(np.ascontiguousarray(x.T), format).T)
    return decode_blocks(auto.encoder()(format, x), format)


def quantized(weights: Weights, formats: Mapping[str, str]) -> Weights:
    """formats: of the tensors that are encoded and decoded, by name."""
    return with_tensors(weights, {name: through(weights.tensors[name].decode(), f) for name, f in formats.items()})


def costs(text: HeldOut, weights: Weights, format: str) -> list[Row]:
    def cost(pattern: str) -> tuple[int, Scores]:
        names = [name for name, t in weights.tensors.items() if re.fullmatch(pattern, name) and len(t.shape) == 2]
        size = sum(weights.tensors[name].size for name in names)
        return size, text.score(quantized(weights, dict.fromkeys(names, format)))

    whole_size, whole = cost(LAYERS)
    rows = []
    for label, pattern in {"all layers' matrices": LAYERS, **GROUPS}.items():
        size, score = (whole_size, whole) if pattern == LAYERS else cost(pattern)
        saved = size * (bits("q8_0") - bits(format)) / 8
        share = score.kl_mean / size / (whole.kl_mean / whole_size)
        rows.append(
            {"in 4 bits": label, **scores(text, score), "KB saved": saved / 1e3}
            | {"KL a MB saved": f"{1e6 * score.kl_mean / saved:.5f}", "of the layers' mean": f"{share:.2f}x"}
        )
    return rows


def scores(text: HeldOut, score: Scores) -> Row:
    return {
        "perplexity": f"{100 * (score.perplexity / text.perplexity - 1):+.3f} %",
        "KL mean": f"{score.kl_mean:.6f}",
        "KL p99": f"{score.kl_p99:.5f}",
        "top-1": f"{100 * score.top1_agreement:.2f} %",
    }


def candidate(text: HeldOut, weights: Weights, label: str, mix: Mix) -> Row:
    formats = {name: mix.wanted(name) for name in weights.tensors if MATRIX.fullmatch(name)}
    layers = {name: weights.tensors[name].size for name in formats if name.startswith("blocks")}
    mean = sum(size * bits(formats[name]) for name, size in layers.items()) / sum(layers.values())
    return {"mix": label, "bits a weight, layers": mean, **scores(text, text.score(quantized(weights, formats)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="q4_k", help="of the first table")
    parser.add_argument("--save", action="store_true", help="keep the tables in bench/results")
    options = parser.parse_args()
    text = HeldOut()
    weights = in_float32(text.weights)
    groups = costs(text, weights, options.format)
    mixes = [candidate(text, weights, label, mix) for label, mix in CANDIDATES.items()]
    about = f"{len(text.tokens)} bytes of held-out text; perplexity {text.perplexity:.4f} in float32, others relative to it."
    parts = [about, f"One group in {options.format.upper()}:", render(groups), "Mixes:", render(mixes)]
    publish("policy", parts, options.save)


if __name__ == "__main__":
    main()
