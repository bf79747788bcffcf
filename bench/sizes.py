"""Widths of an RWKV model, with those of the released ones where only version, layers and channels are given."""
import math
from dataclasses import dataclass

HEAD_SIZE = 64
VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")
# Ranks of the low-rank maps (decay, a, v, gate) of the released RWKV-7 models, by channels.
RANKS7 = {
    768: (64, 64, 32, 128),
    1024: (64, 64, 32, 128),
    2048: (96, 96, 64, 256),
    2560: (96, 96, 64, 320),
    4096: (128, 128, 96, 480),
}


@dataclass(frozen=True)
class Sizes:
    """ffn_sparsity: the wanted fraction of zeros behind the squared relu of channel mixing; None: half, as it comes."""

    version: str
    n_layer: int
    n_embd: int
    n_vocab: int = 65536
    ffn_sparsity: float | None = None

    @property
    def n_head(self) -> int:
        return self.n_embd // HEAD_SIZE

    @property
    def n_ffn(self) -> int:
        return 4 * self.n_embd if self.version in ("4", "7") else int(3.5 * self.n_embd) // 32 * 32

    @property
    def ranks7(self) -> dict[str, int]:
        """Of w, a, v and g; between the released widths by the training code's rule of thumb."""
        c = self.n_embd
        rule = (1.8 * c**0.5, 1.8 * c**0.5, 1.3 * c**0.5, 0.6 * c**0.8)
        ranks = RANKS7.get(c, tuple(max(32, round(r / 32) * 32) for r in rule))
        return dict(zip("wavg", ranks, strict=True))

    @property
    def block_share(self) -> float:
        """What a block adds to the stream, in its standard deviations: all together the same however deep the model."""
        return 0.35 * math.sqrt(3 / max(3, self.n_layer))
