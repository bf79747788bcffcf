"""Which format a tensor gets."""
import pytest

from rwkv_edge import InputError
from rwkv_edge.convert.mix import MIXES, Mix, fitting, mix_of
from rwkv_edge.quant.formats import FORMATS


@pytest.mark.parametrize(
    ("format", "instead"),
    [
        ("q6_k", "q8_0"), ("q5_k", "q5_1"), ("q4_k", "q5_0"), ("q3_k", "q4_0"), ("q2_k", "q4_0"),
        ("iq4_xs", "iq4_nl"), ("iq3_s", "iq4_nl"), ("iq3_xxs", "iq4_nl"), ("q4_0", "q4_0"), ("bf16", "bf16"),
    ],
)  # fmt: skip
def test_narrow_rows_get_what_llama_quantize_gives_them(format: str, instead: str) -> None:
    assert fitting(format, 512) == format
    assert fitting(format, 2688) == instead  # the feed-forward width of a 0.1B version 6
    assert fitting(format, 40) == ("f16" if format != "bf16" else "bf16")


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_vectors_and_low_rank_maps_are_never_quantized(mix: Mix) -> None:
    small = "f32" if mix.matrices == "f32" else mix.matrices if mix.is_float else "bf16"
    for name, shape, expected in [
        ("blocks.0.ln1.weight", (768,), "f32"),
        ("blocks.0.att.r_k", (12, 64), "f32"),
        ("blocks.0.att.time_faaaa", (12, 64), "f32"),
        ("blocks.0.att.w1", (64, 768), "f32"),
        ("blocks.0.att.time_decay_w2", (768, 64), "f32"),
        ("blocks.0.att.time_maa_w2", (5, 768, 32), "f32"),
        ("blocks.0.att.g2", (768, 128), small),
    ]:
        assert mix.format(name, shape, "bf16") == expected, name
    assert FORMATS[mix.format("blocks.0.att.g2", (768, 128), "q8_0")].is_float


@pytest.mark.parametrize("type", ["q4", "q8"])
def test_our_own_mixes_keep_head_and_embedding_at_8_bits(type: str) -> None:
    for name in ("emb.weight", "head.weight"):
        assert MIXES[type].format(name, (65536, 768), "bf16") in ("q8_0", "f16", "bf16")


def test_q4_gives_more_bits_where_four_cost_most() -> None:
    formats = {"emb": "q8_0", "head": "q8_0"}
    formats |= {f"blocks.7.att.{name}": "q5_k" for name in ("key", "value", "output")}
    formats |= {f"blocks.7.att.{name}": "q4_k" for name in ("receptance", "gate")}
    formats |= {f"blocks.7.ffn.{name}": "q4_k" for name in ("key", "value", "receptance")}
    assert {name: MIXES["q4"].format(f"{name}.weight", (768, 3072), "bf16") for name in formats} == formats


def test_the_first_exception_that_matches_wins() -> None:
    mix = Mix("q4_k", "q6_k", "q4_k", 15, ((r"blocks\.0\..*", "q8_0"), (r".*\.att\.key\.weight", "q6_k")))
    shape = (768, 768)
    assert mix.format("blocks.0.att.key.weight", shape, "bf16") == "q8_0"
    assert mix.format("blocks.1.att.key.weight", shape, "bf16") == "q6_k"
    assert mix.format("blocks.1.att.value.weight", shape, "bf16") == "q4_k"
    assert mix.format("blocks.0.att.g1", (128, 768), "bf16") == "bf16"


def test_types_are_known_in_any_case() -> None:
    assert mix_of("Q4_K_M") is MIXES["q4_k_m"]
    with pytest.raises(InputError, match="unknown type 'q7'"):
        mix_of("q7")
