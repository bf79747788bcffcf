"""The steps that the official package does not have: bias, bans, repetition penalty, min_p, typical_p; against plain twins."""
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rwkv_edge.errors import InputError
from rwkv_edge.text.sampling import Occurrences, Sampler, Sampling, penalized, probabilities

FREE = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
rows = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30).map(lambda values: np.array(values, np.float32))


def normal(seed: int, n: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


def plain_min_p(logits: Sequence[float], min_p: float) -> set[int]:
    return {i for i, x in enumerate(logits) if math.exp(x - max(logits)) >= min_p}


def plain_typical(logits: Sequence[float], mass: float) -> set[int]:
    """Sort by |surprise - entropy|, take until the mass is reached, and all at the distance of the last."""
    weights = [math.exp(x - max(logits)) for x in logits]
    p = [w / math.fsum(weights) for w in weights]
    entropy = -math.fsum(x * math.log(x) for x in p if x)
    distance = [abs(-math.log(x) - entropy) if x else math.inf for x in p]
    reached, last = 0.0, 0.0
    for i in sorted(range(len(p)), key=lambda i: distance[i]):
        last = distance[i]
        reached += p[i]
        if reached >= mass:
            break
    return {i for i in range(len(p)) if distance[i] <= last + 1e-9 and p[i]}


@given(rows, st.floats(0, 1), st.floats(0.05, 10))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(
    logits: NDArray[np.float32], min_p: float, temperature: float
) -> None:
    kept = plain_min_p(logits.tolist(), min_p)
    ours = probabilities(logits, temperature, min_p=min_p)
    assert set(np.flatnonzero(ours)) == {i for i in kept if (logits[i] - logits.max()) / temperature > -700}
    expected = np.array([math.exp((x - logits.max()) / temperature) if i in kept else 0 for i, x in enumerate(logits)])
    assert np.allclose(ours, expected / expected.sum(), rtol=1e-6)


@given(rows, st.floats(0.01, 0.99))
def test_typical_p_keeps_the_tokens_of_expected_surprise(logits: NDArray[np.float32], typical_p: float) -> None:
    assert set(np.flatnonzero(probabilities(logits, typical_p=typical_p))) == plain_typical(logits.tolist(), typical_p)


def test_typical_p_may_drop_the_likeliest_token() -> None:
    p = np.array([0.4, 0.12, 0.12, 0.12, 0.12, 0.12], np.float32)
    assert probabilities(np.log(p), typical_p=0.5)[0] == 0
    assert probabilities(np.log(p), temperature=0, typical_p=0.5)[0] == 1  # greedy is greedy


def test_typical_p_is_of_what_the_other_cuts_leave() -> None:
    logits = normal(1, 400)
    settings = {"top_p": 0.9, "top_k": 40, "min_p": 0.02}
    left = np.flatnonzero(probabilities(logits, **settings))
    expected = {int(left[i]) for i in plain_typical(logits[left].tolist(), 0.6)}
    assert 1 < len(expected) < len(left) < 40
    assert set(np.flatnonzero(probabilities(logits, **settings, typical_p=0.6))) == expected


def test_an_impossible_token_is_never_typical() -> None:
    logits = np.array([-math.inf, 1, 1, 1, -math.inf], np.float32)
    assert set(np.flatnonzero(probabilities(logits, typical_p=0.999))) == {1, 2, 3}


def test_min_p_1_and_typical_p_0_leave_the_first_of_their_kind() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)
    assert probabilities(logits, min_p=1.0).tolist() == [0, 0.5, 0.5, 0]
    assert (probabilities(logits, typical_p=0.0) > 0).sum() in (1, 2)


@given(rows, st.floats(0.1, 5), st.lists(st.tuples(st.integers(0, 29), st.booleans()), max_size=12))
def test_repetition_penalty_divides_positive_logits_and_multiplies_others(
    logits: NDArray[np.float32], penalty: float, draws: list[tuple[int, bool]]
) -> None:
    drawn = Occurrences()
    for token, counted in draws:
        drawn = drawn.then(token % len(logits), float(counted), 0.9)
    expected = [float(x) for x in logits]
    for token in {token % len(logits) for token, counted in draws if counted}:
        x = expected[token]
        expected[token] = x / penalty if x > 0 else x * penalty
    assert np.allclose(penalized(logits, drawn, 0.0, 0.0, penalty), expected, rtol=1e-5, atol=1e-6)


def test_repetition_comes_before_presence() -> None:
    drawn = Occurrences().then(1, 1.0, 1.0)
    assert penalized(np.array([0, 4], np.float32), drawn, 1.0, 0.0, 2.0).tolist() == [0, 1]


def test_a_bias_is_added_before_the_penalties_and_a_ban_beats_it() -> None:
    logits = np.zeros(4, np.float32)
    sampler = Sampler(Sampling(temperature=0, **FREE, logit_bias={2: 3, 3: 100}, banned_tokens=[3], repetition_penalty=2.0))
    assert [sampler.sample(logits), sampler.sample(logits)] == [2, 2]
    assert logits.tolist() == [0, 0, 0, 0]
    # After the penalty, 1 of 3 / 2 is left; a bias behind it would leave 3.
    sampler = Sampler(Sampling(temperature=0, **FREE, logit_bias={2: 3.0, 1: 2.0}, repetition_penalty=2.0))
    assert [sampler.sample(logits) for _ in range(3)] == [2, 1, 2]


def test_a_banned_token_is_never_drawn() -> None:
    sampler = Sampler(Sampling(**FREE, temperature=5, banned_tokens=range(0, 10, 2), seed=1))
    assert {sampler.sample(np.zeros(10, np.float32)) for _ in range(300)} == {1, 3, 5, 7, 9}
    with pytest.raises(InputError, match="no token"):
        Sampler(Sampling(banned_tokens=[0, 1])).sample(np.zeros(2, np.float32))


def test_a_biased_or_banned_token_outside_the_vocabulary_is_named() -> None:
    for settings in (Sampling(logit_bias={70: 1.0}), Sampling(banned_tokens=[70])):
        with pytest.raises(InputError, match=r"token 70, .* 10 tokens"):
            Sampler(settings).sample(np.zeros(10, np.float32))


WRONG: dict[str, Sequence[Any]] = {
    "min_p": (-0.1, 1.1, "1", math.nan),
    "typical_p": (2, None),
    "repetition_penalty": (0, -1, 101, math.nan),
    "logit_bias": ([1], {1: math.nan}, {1: 101}, {-1: 0.0}, {"a": 1.0}, {1.5: 1.0}, None),
    "banned_tokens": ("12", 3, [-1], [0.5], [None], [2**40]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InputError, match=f"^{name}"):
            Sampling(**{name: value})


def test_settings_compare_hash_and_pickle() -> None:
    a = Sampling(logit_bias={np.int64(3): 1}, banned_tokens=[5, 5, 4])  # type: ignore[dict-item]
    assert a == Sampling(logit_bias={3: 1.0}, banned_tokens=(4, 5))
    assert hash(a) == hash(Sampling(logit_bias={3: 1.0}, banned_tokens=(4, 5)))
    assert pickle.loads(pickle.dumps(a)) == a
    given_bias = {1: 2.0}
    b = Sampling(logit_bias=given_bias)
    given_bias[1] = 50.0
    assert b.logit_bias == {1: 2.0}
