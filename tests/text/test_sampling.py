"""Sampling against the official package's goldens, and against a plain full-sort twin."""
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rwkv_edge.errors import InputError, TokenizerError
from rwkv_edge.text.sampling import Occurrences, Sampler, Sampling, penalized, probabilities, uncounted_tokens
from rwkv_edge.tokenizer import ByteTokenizer, world_tokenizer
from tests.goldens.make_sampling import CASES, FILE, N_STEPS, SEED, SETTINGS, TEXTS, rows, step_logits

GREEDY = Sampling(temperature=0)
FREE = Sampling(top_p=1, presence_penalty=0, frequency_penalty=0)  # nothing cut, nothing penalized
OFFICIAL = Sampling(
    temperature=SETTINGS["temperature"],
    top_p=SETTINGS["top_p"],
    presence_penalty=SETTINGS["alpha_presence"],
    frequency_penalty=SETTINGS["alpha_frequency"],
    penalty_decay=SETTINGS["alpha_decay"],
)


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(FILE) as file:
        return dict(file)


def normal(seed: int, n: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


def naive(logits: NDArray[Any], temperature: float, top_p: float, top_k: int) -> NDArray[np.float64]:
    """The definition: sort everything, cut, then heat."""
    n = len(logits)
    if temperature == 0 or top_p == 0:
        return np.eye(n)[logits.argmax()]
    with np.errstate(over="ignore"):
        p = np.exp(logits - logits.max()).astype(np.float64)
    p /= math.fsum(p)
    if top_p < 1:
        falling = np.sort(p)[::-1]
        enough = np.cumsum(falling) >= top_p
        keep = p >= falling[enough.argmax() if enough.any() else -1]
    else:
        keep = np.ones(n, bool)
    if top_k:
        first_k = sorted(range(n), key=lambda i: (-logits[i], i))[:top_k]
        keep &= np.isin(np.arange(n), first_k)
    with np.errstate(over="ignore"):
        p = np.where(keep, np.exp((logits.astype(np.float64) - float(logits.max())) / temperature), 0)
    return p / p.sum()


def test_distributions_are_the_official_ones(goldens: dict[str, NDArray[Any]]) -> None:
    for (name, row), official in zip(rows().items(), goldens["distributions"], strict=True):
        for (temperature, top_p, top_k), expected in zip(CASES, official, strict=True):
            ours = probabilities(row, temperature, top_p, top_k)
            if temperature == 0 or top_p == 0:
                # The official package draws among equally likely tokens here.
                assert set(row[expected > 0]) == {row[ours.argmax()]}, name
                assert sorted(ours) == [0] * 31 + [1], name
            elif top_k:
                # Which of several tokens that tie for the k-th place stay is up to its sort.
                assert np.allclose(np.sort(ours), np.sort(expected), rtol=2e-5, atol=1e-7), (name, top_p, top_k)
                differ = (ours > 0) != (expected > 0)
                assert len(set(row[differ])) <= 1, (name, top_p, top_k)
            else:
                assert np.allclose(ours, expected, rtol=2e-5, atol=1e-7), (name, temperature, top_p)
                assert ((ours > 1e-30) == (expected > 0)).all(), (name, temperature, top_p)


def test_a_sequence_with_penalties_is_the_official_one(goldens: dict[str, NDArray[Any]]) -> None:
    uncounted = frozenset(i for i, text in enumerate(TEXTS) if text in " \t0123456789")
    sampler = Sampler(OFFICIAL, uncounted=uncounted, random=np.random.RandomState(SEED).random_sample)
    for step, logits in enumerate(step_logits()):
        seen = penalized(logits, sampler.occurrences, OFFICIAL.presence_penalty, OFFICIAL.frequency_penalty)
        assert np.allclose(seen, goldens["penalized"][step], rtol=0, atol=1e-6)
        assert sampler.sample(logits) == goldens["tokens"][step]


def test_the_golden_sequence_repeats_tokens_that_count_and_tokens_that_do_not(goldens: dict[str, NDArray[Any]]) -> None:
    counts = np.bincount(goldens["tokens"], minlength=len(TEXTS))
    assert len(goldens["tokens"]) == N_STEPS
    assert counts[TEXTS.index("12")] >= 2
    assert max(counts[TEXTS.index(text)] for text in ("a", "b", "the", " the", "13")) >= 2


def rows_of(elements: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float32]]:
    return arrays(np.float32, st.integers(1, 60), elements=elements)


tied_or_not = st.one_of(
    rows_of(st.floats(width=32, allow_nan=False, allow_infinity=False)),
    rows_of(st.floats(-20, 20, width=32)),
    rows_of(st.sampled_from([-1.0, 0.0, 2.0, 2.0 + 2.0**-22])),
    rows_of(st.sampled_from([-math.inf, 0.0, 1.0])).filter(lambda a: np.isfinite(a).any()),
)


@given(tied_or_not, st.floats(0, 100), st.floats(0, 1), st.integers(0, 70))
def test_the_quick_cut_equals_the_full_sort(
    logits: NDArray[np.float32], temperature: float, top_p: float, top_k: int
) -> None:
    before = logits.copy()
    expected = naive(logits, temperature, top_p, top_k)
    ours = probabilities(logits, temperature, top_p, top_k)
    assert ours.dtype == np.float64
    assert ours.sum() == pytest.approx(1)
    assert np.allclose(ours, expected, rtol=1e-12, atol=0)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.85, 0.99, 0.999999, 1.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_the_quick_cut_equals_the_full_sort_at_full_size(top_p: float, scale: float) -> None:
    logits = normal(1, 65536, scale)
    for top_k in (0, 50):
        settings = (0.7, top_p, top_k)
        assert np.allclose(probabilities(logits, *settings), naive(logits, *settings), rtol=1e-12, atol=0)


def test_top_p_1_keeps_every_token() -> None:
    logits = normal(2, 65536)
    expected = np.exp(logits.astype(np.float64))
    assert np.allclose(probabilities(logits, top_p=1.0), expected / expected.sum(), rtol=1e-12)


def test_top_p_cuts_before_temperature_and_top_k_after_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    # Heated first, the four would be nearly equal and three of them needed to reach 0.7.
    assert (probabilities(logits, temperature=50, top_p=0.7) > 0).tolist() == [True, True, False, False]
    # Of the two most likely alone the first has 0.62 > 0.6; of all four it has 0.5.
    assert (probabilities(logits, top_p=0.6, top_k=2) > 0).tolist() == [True, True, False, False]


def test_tokens_as_likely_as_the_last_one_kept_stay() -> None:
    assert np.allclose(probabilities(np.zeros(10, np.float32), top_p=0.3), 0.1)


def test_greedy_and_top_k_take_the_lowest_of_equal_ids() -> None:
    logits = np.array([0, 3, 1, 3, 3], np.float32)
    for settings in ({"temperature": 0}, {"top_p": 0}, {"top_k": 1}):
        assert probabilities(logits, **settings).tolist() == [0, 1, 0, 0, 0]
    assert probabilities(logits, top_k=2).tolist() == [0, 0.5, 0, 0.5, 0]


def test_no_temperature_underflows() -> None:
    logits = np.array([-50, 1, 0.5], np.float32)
    for temperature in (0.01, 1e-6, 1e-300, 5e-324):
        assert np.allclose(probabilities(logits, temperature, top_p=0.99), [0, 1, 0], rtol=0, atol=1e-20)


def test_the_draw_inverts_the_cumulative_distribution_in_order_of_id() -> None:
    logits, n = normal(3, 50, 1.0), 4000
    numbers = iter((np.arange(n) + 0.5) / n)
    sampler = Sampler(FREE, random=lambda: next(numbers))
    tokens = [sampler.sample(logits) for _ in range(n)]
    assert tokens == sorted(tokens)
    assert np.abs(np.bincount(tokens, minlength=50) - n * probabilities(logits)).max() <= 1


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_extreme_random_numbers_draw_the_ends_of_what_is_possible(u: float) -> None:
    logits = np.array([-math.inf, -1, 2, 1, -math.inf], np.float32)
    assert Sampler(FREE, random=lambda: u).sample(logits) == (3 if u else 1)


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = normal(4, 1000)

    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(seed=seed, top_p=0.99))
        return [sampler.sample(logits) for _ in range(40)]

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)
    assert tokens(None) != tokens(None)


def test_seeded_numbers_are_those_of_numpys_generator() -> None:
    logits = np.zeros(1 << 16, np.float32)
    sampler = Sampler(Sampling(seed=9, top_p=1, presence_penalty=0, frequency_penalty=0))
    numbers = np.random.default_rng(9)
    assert [sampler.sample(logits) for _ in range(20)] == [int(numbers.random() * 65536) for _ in range(20)]


def test_a_copy_goes_on_alike_and_apart() -> None:
    logits = normal(5, 200)
    sampler = Sampler(Sampling(seed=1, top_p=0.95))
    for _ in range(10):
        sampler.sample(logits)
    twin = sampler.copy()
    assert [twin.sample(logits) for _ in range(30)] == [sampler.sample(logits) for _ in range(30)]
    twin.sample(logits)
    assert twin.occurrences.counts.sum() != sampler.occurrences.counts.sum()


def test_logits_are_never_changed() -> None:
    logits = normal(6, 100)
    logits.flags.writeable = False
    sampler = Sampler(Sampling(seed=0))
    for _ in range(5):
        sampler.sample(logits)
    for top_p in (0.0, 0.5, 1.0):
        probabilities(logits, 0.5, top_p, 3)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.floats(0, 1))
def test_counts_decay_as_a_dictionary_of_them_would(draws: list[tuple[int, bool]], decay: float) -> None:
    drawn, expected = Occurrences(), dict[int, float]()
    for token, counted in draws:
        drawn = drawn.then(token, float(counted), decay)
        expected = {known: count * decay for known, count in expected.items()}
        expected[token] = expected.get(token, 0.0) + counted
    assert dict(zip(drawn.ids.tolist(), drawn.counts.tolist(), strict=True)) == expected


def test_an_uncounted_token_costs_presence_only() -> None:
    logits = np.array([0, 9, 0], np.float32)
    settings = Sampling(temperature=0, presence_penalty=1, frequency_penalty=2, penalty_decay=1)
    sampler = Sampler(settings, uncounted=frozenset({1}))
    assert [sampler.sample(logits) for _ in range(4)] == [1] * 4
    assert penalized(logits, sampler.occurrences, 1, 2).tolist() == [0, 8, 0]
    sampler = Sampler(settings)
    assert [sampler.sample(logits) for _ in range(4)] == [1] * 4
    assert penalized(logits, sampler.occurrences, 1, 2).tolist() == [0, 0, 0]


def test_uncounted_tokens_of_the_world_vocabulary_are_the_official_ones() -> None:
    tokenizer = world_tokenizer(65536)
    found = uncounted_tokens(tokenizer)
    # rwkv 0.8.32, over all tokens: those with `decode([token]) in " \t0123456789"`.
    assert sorted(found) == [10, 33, *range(49, 59), 264, 621, 632, 643, 654, 665, 676, 687, 698, 709]
    assert all(tokenizer.decode([token]) in " \t0123456789" for token in found)


def test_uncounted_tokens_of_other_vocabularies() -> None:
    assert uncounted_tokens(ByteTokenizer()) == frozenset(b" \t0123456789")
    assert uncounted_tokens(WithoutText()) == frozenset()


class WithoutText:
    vocab_size = 4

    def encode(self, text: str | bytes) -> list[int]:
        raise TokenizerError("a vocabulary of notes")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        return b""

    def decode(self, tokens: Iterable[int]) -> str:
        return ""


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_of_a_damaged_model_are_named_so(bad: float) -> None:
    for place in (0, 7):
        logits = normal(7, 8)
        logits[place] = bad
        for settings in (GREEDY, FREE, Sampling()):
            with pytest.raises(InputError, match="NaN"):
                Sampler(settings).sample(logits)


def test_logits_that_leave_no_token_are_refused() -> None:
    with pytest.raises(InputError, match="no token"):
        probabilities(np.full(5, -np.inf, np.float32))


NOT_A_ROW = ([], np.zeros((2, 3)), np.float32(1), np.zeros(3, complex), "text", [None], [[]])


@pytest.mark.parametrize("logits", NOT_A_ROW, ids=str)
def test_what_is_not_a_row_of_logits_is_refused(logits: Any) -> None:
    with pytest.raises(InputError, match="one row"):
        Sampler().sample(logits)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_logits_of_other_types_are_taken(dtype: Any) -> None:
    assert Sampler(GREEDY).sample(np.array([1, 5, 2], dtype)) == 1
    assert Sampler(GREEDY).sample(np.array([1, 5, 2], dtype)[::-1]) == 1


def test_a_sampler_used_for_a_smaller_vocabulary_says_so() -> None:
    sampler = Sampler(GREEDY)
    sampler.sample(np.array([0, 0, 1], np.float32))
    with pytest.raises(InputError, match="token 2"):
        sampler.sample(np.zeros(2, np.float32))


@pytest.mark.parametrize("u", [1.0, -0.1, math.nan])
def test_random_numbers_out_of_range_are_refused(u: float) -> None:
    with pytest.raises(InputError, match="random"):
        Sampler(FREE, random=lambda: u).sample(np.zeros(3, np.float32))


OUT_OF_RANGE: dict[str, Sequence[Any]] = {
    "temperature": (-0.1, 100.5, math.nan, math.inf, "1", True, None, 10**400),
    "top_p": (-1e-9, 1.0001, math.nan, "0.5"),
    "top_k": (-1, 1.5, 2.0, True, 2**31, None, math.nan),
    "presence_penalty": (101, -math.inf, 1j),
    "frequency_penalty": (math.nan, [1]),
    "penalty_decay": (1.1, -0.5),
    "seed": (-1, 2**64, 0.5, "7", False),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused_by_name(name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(InputError, match=rf"^{name} must be an? \w+ from [-\d]+ to \d+, got ") as error:
            Sampling(**{name: value})
        assert len(str(error.value)) < 120


def test_settings_become_plain_python_numbers() -> None:
    settings = Sampling(np.float32(0.5), 1, np.int64(3), seed=np.uint64(2**64 - 1))  # type: ignore[arg-type]
    assert settings == Sampling(0.5, 1.0, 3, seed=2**64 - 1)
    values = (settings.temperature, settings.top_p, settings.top_k, settings.seed)
    assert [type(value) for value in values] == [float, float, int, int]
