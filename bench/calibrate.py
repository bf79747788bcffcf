"""What `--calibrate` gains on the bundled model: KL divergence from f32 on other text than it was calibrated with.

    python -m bench.calibrate [--formats q4_k,iq3_s] [--save]

All matrices but the embedding (which nothing multiplies) in one format, decoded before the run. "mean square": with that as the
importance of columns instead of its root, which `--calibrate` uses.
"""
import argparse

import numpy as np

from bench.held_out import HeldOut, calibration_text, in_float32, with_tensors
from bench.table import Row, report
from rwkv_edge import auto
from rwkv_edge.convert.calibrate import MOST_TOKENS, activation_sizes
from rwkv_edge.convert.encoding import Importance
from rwkv_edge.quant.decode import decode_blocks

FORMATS = "q4_k,q4_0,iq4_nl,iq4_xs,q3_k,iq3_s,iq3_xxs,q2_k"


def gains(text: HeldOut, sizes: Importance, format: str) -> Row:
    weights, encode = in_float32(text.weights), auto.encoder()

    def score(power: int) -> tuple[float, float]:
        changed = {
            name: decode_blocks(encode(format, weights.tensors[name].decode(), size**power), format)
            for name, size in sizes.items()
        }
        found = text.score(with_tensors(weights, changed))
        return found.kl_mean, 100 * (found.perplexity / text.perplexity - 1)

    (plain, plain_cost), (root, cost), (square, _) = (score(power) for power in (0, 1, 2))
    return {
        "format": format,
        "KL plain": f"{plain:.6f}",
        "KL calibrated": f"{root:.6f}",
        "ratio": f"{root / plain:.3f}",
        "ratio, mean square": f"{square / plain:.3f}",
        "perplexity plain": f"{plain_cost:+.3f} %",
        "perplexity calibrated": f"{cost:+.3f} %",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    text = HeldOut()
    tokens = np.frombuffer(calibration_text()[:MOST_TOKENS], np.uint8).tolist()
    sizes = activation_sizes(text.weights, tokens)
    rows = [gains(text, sizes, format) for format in options.formats.split(",")]
    notes = [f"Calibrated with {len(tokens)} bytes of other modules, measured on {len(text.tokens)} bytes of held-out ones."]
    report("calibrate", rows, notes, options.save)


if __name__ == "__main__":
    main()
