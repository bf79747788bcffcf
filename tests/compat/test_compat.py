"""Scripts for the `rwkv` package run on rwkv_edge.compat and see what they would see there."""
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import Sampler, Sampling
from rwkv_edge.compat import PIPELINE, PIPELINE_ARGS, RWKV, TRIE_TOKENIZER
from rwkv_edge.compat.modules import TorchStandIn
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.errors import InputError, MissingExtraError, ModelFileError, StateError
from rwkv_edge.text.sampling import uncounted_tokens
from rwkv_edge.tokenizer import world_tokenizer
from tests.checkpoints.tiny import VERSIONS
from tests.conftest import need_backend
from tests.goldens.make_pipeline import CASES, FILE, N_TOKENS, PROMPT, SEED, Bytes

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def demo() -> Iterator[RWKV]:
    need_backend("cpu")
    rwkv = RWKV(model=str(MODEL_PATH.with_suffix("")), strategy="cpu fp32", verbose=False)
    yield rwkv
    rwkv.model.close()


@pytest.fixture
def pipeline(demo: RWKV) -> PIPELINE:
    made = PIPELINE(demo, "rwkv_vocab_v20230424")
    made.tokenizer = Bytes()
    return made


@pytest.fixture
def official() -> Any:
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(params=VERSIONS)
def tiny(request: pytest.FixtureRequest, tiny_pth: Callable[[str], Path]) -> Iterator[tuple[RWKV, Any]]:
    """A model, and what the official package made of it."""
    need_backend("cpu")
    rwkv = RWKV(str(tiny_pth(request.param)), "cpu fp32", verbose=False)
    with np.load(GOLDENS / f"tiny-{request.param}.npz") as file:
        yield rwkv, dict(file)
    rwkv.model.close()


def assert_close(logits: Any, expected: Any) -> None:
    """Equal but for the order of sums."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_generate_draws_the_official_tokens_from_the_official_logits(
    pipeline: PIPELINE, official: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    pieces: list[str] = []
    draw = pipeline.sample_logits

    def recorded(logits: Any, **settings: Any) -> int:
        seen.append((logits.copy(), draw(logits, **settings)))
        return seen[-1][1]

    monkeypatch.setattr(pipeline, "sample_logits", recorded)
    np.random.seed(SEED)  # noqa: NPY002 - what is tested
    text = pipeline.generate(PROMPT, token_count=N_TOKENS, args=PIPELINE_ARGS(**CASES[name]), callback=pieces.append)
    assert [token for _, token in seen] == official[f"{name}_tokens"].tolist()
    for (logits, _), expected in zip(seen, official[f"{name}_logits"], strict=True):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
    assert pieces == official[f"{name}_pieces"].tolist()
    assert text == "".join(pieces)


@pytest.mark.parametrize("name", CASES)
def test_model_generate_draws_the_official_tokens(demo: RWKV, official: Any, name: str) -> None:
    args = PIPELINE_ARGS(**CASES[name])
    settings = Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        presence_penalty=args.alpha_presence,
        frequency_penalty=args.alpha_frequency,
        penalty_decay=args.alpha_decay,
        banned_tokens=args.token_ban,
    )
    model, expected = demo.model, official[f"{name}_tokens"].tolist()
    stops = [model.tokenizer.decode_bytes([token]) for token in args.token_stop]

    def sampler() -> Sampler:
        random = np.random.RandomState(SEED).random_sample
        return Sampler(settings, uncounted=uncounted_tokens(model.tokenizer), random=random)

    stream = model.stream(PROMPT, max_tokens=N_TOKENS, sampling=sampler(), stop=stops)
    pieces = "".join(stream)
    assert stream.tokens == expected
    assert pieces == "".join(official[f"{name}_pieces"])
    assert pieces == model.generate(PROMPT, max_tokens=N_TOKENS, sampling=sampler(), stop=stops)
    batch = model.generate_batch([PROMPT] * 3, max_tokens=N_TOKENS, sampling=[sampler() for _ in range(3)], stop=[stops] * 3)
    assert batch == [pieces] * 3


def test_state_items_are_the_official_ones(tiny: tuple[RWKV, Any]) -> None:
    rwkv, golden = tiny
    _, state = rwkv.forward(golden["tokens"].tolist(), None)
    expected = [golden[f"state_{i}"] for i in range(len(state))]
    assert f"state_{len(state)}" not in golden
    for item, official in zip(state, expected, strict=True):
        assert item.shape == official.shape
        np.testing.assert_allclose(item, official, rtol=1e-3, atol=1e-3)


def test_a_state_built_by_the_script_from_arrays_goes_on_like_ours(tiny: tuple[RWKV, Any]) -> None:
    rwkv, golden = tiny
    tokens = golden["tokens"].tolist()
    _, state = rwkv.forward(tokens[:20], None)
    arrays = [np.array(item) for item in state]
    expected, _ = rwkv.forward(tokens[20:], state)
    logits, returned = rwkv.forward(tokens[20:], arrays)
    assert_close(logits, expected)
    assert returned is arrays
    np.testing.assert_array_equal(arrays[0], state[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, list], ids=["deepcopy", "copy", "list"])
def test_a_copied_state_is_a_branch(tiny: tuple[RWKV, Any], copied: Callable[[Any], Any]) -> None:
    rwkv, _ = tiny
    _, state = rwkv.forward([1, 2, 3], None)
    branch = copied(state)
    first, _ = rwkv.forward([4], state)
    second, _ = rwkv.forward([4], branch)
    assert_close(first, second)


def test_changing_an_item_changes_the_state(tiny: tuple[RWKV, Any]) -> None:
    rwkv, _ = tiny
    _, state = rwkv.forward([1, 2, 3], None)
    zeroed = copy.deepcopy(state)
    for i in range(len(zeroed)):
        zeroed[i] *= 0
    zeroed[0] = state[0]
    assert not np.asarray(zeroed[1]).any()
    assert np.asarray(zeroed[0]).any()
    assert np.abs(rwkv.forward([4], zeroed)[0] - rwkv.forward([4], state)[0]).max() > 1e-3


def test_forward_takes_one_id_or_several_and_full_output(tiny: tuple[RWKV, Any]) -> None:
    rwkv, golden = tiny
    tokens = golden["tokens"].tolist()
    full, _ = rwkv.forward(tokens, None, full_output=True)
    assert full.shape == golden["logits"].shape
    one, _ = rwkv.forward(tokens[0], None)
    same, _ = rwkv.forward(tokens[:1], None, full_output=True)
    assert_close(one, same)
    assert one.detach().cpu().float().numpy().shape == (rwkv.args.vocab_size,)
    assert type(one.numpy()) is np.ndarray


def test_a_list_that_is_no_state_is_refused_in_a_sentence(demo: RWKV) -> None:
    with pytest.raises(StateError, match="has 2 items, expected"):
        demo.forward([1], [np.zeros(3), np.zeros(3)])
    with pytest.raises(StateError, match="item 0 of the state has shape"):
        demo.forward([1], [np.zeros(3)] * len(demo.generate_zero_state()))


def test_a_wrong_path_and_a_conversion_are_refused() -> None:
    with pytest.raises(ModelFileError, match="nothing-here"):
        RWKV("nothing-here", "cpu fp32", verbose=False)
    with pytest.raises(InputError, match="nothing needs converting"):
        RWKV("nothing-here", "cpu fp32", convert_and_save_and_exit="x.pth")


def test_the_trie_tokenizer_is_the_world_vocabulary_and_decodes_as_the_official_one() -> None:
    tokenizer, ours = TRIE_TOKENIZER("rwkv_vocab_v20230424.txt"), world_tokenizer()
    text = "The Eiffel tower\n\n是 in Paris 🤔"
    assert tokenizer.encode(text) == ours.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encodeBytes("是".encode()[:2])) == "\ufffd"
    assert tokenizer.decode([0]) == "\ufffd"
    assert tokenizer.token2idx[b"\n\n"] == ours.encode("\n\n")[0]
    assert tokenizer.idx2token[tokenizer.token2idx[b"\n\n"]] == b"\n\n"


def test_refine_context_strips_lines_and_drops_empty_ones(pipeline: PIPELINE) -> None:
    assert pipeline.refine_context("  a \r\n\n\u3000b\n ") == "\na\nb"
    assert pipeline.refine_context("") == "\n"


SCRIPT = '''
import os, sys, copy, torch
torch.backends.cudnn.benchmark = True
os.environ["RWKV_V7_ON"] = "1"
from rwkv.model import RWKV
from rwkv.utils import PIPELINE, PIPELINE_ARGS
model = RWKV(model=sys.argv[1], strategy="cpu fp32")
pipeline = PIPELINE(model, "rwkv_vocab_v20230424")
assert pipeline.decode(pipeline.encode("The Eiffel tower")) == "The Eiffel tower"
tokens = list(b"def main(")
out, state = model.forward(tokens, None)
print(out.detach().cpu().numpy()[:3].round(3))
out, state = model.forward(tokens[:4], None)
kept = copy.deepcopy(state)
with torch.no_grad():
    out, state = model.forward(tokens[4:], state)
again, _ = model.forward(tokens[4:], kept)
print(out.detach().cpu().numpy()[:3].round(3), abs(out - again).max() < 1e-4)
print(pipeline.sample_logits(out, temperature=1.0, top_p=0.0))
'''


def command(*args: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "rwkv_edge", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})


def test_an_unmodified_script_runs(tmp_path: Path) -> None:
    need_backend("cpu")
    script = tmp_path / "api_demo.py"
    script.write_text(SCRIPT)
    done = command("script", script, str(MODEL_PATH)[: -len(".pth")])
    assert done.returncode == 0, done.stderr
    loading, whole, parts, token = done.stdout.splitlines()
    assert loading.startswith("Loading ")
    assert parts == f"{whole} True"
    assert 0 <= int(token) < 256


def test_a_scripts_own_error_is_a_traceback_and_ours_a_sentence(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("1 / 0")
    done = command("script", script)
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)
    assert done.stderr.count("File ") == 1  # as Python shows it: none of ours
    script.write_text("def")
    done = command("script", script)
    assert (done.returncode, "SyntaxError" in done.stderr, "rwkv_edge" in done.stderr) == (1, True, False)
    script.write_text("from rwkv.model import RWKV\nRWKV('nothing-here', 'cpu fp32')")
    done = command("script", script)
    assert done.returncode == 1
    assert done.stderr.startswith("rwkv-edge: ")
    assert len(done.stderr.splitlines()) == 1
    done = command("script", tmp_path / "none.py")
    assert (done.returncode, "none.py: cannot be read" in done.stderr) == (1, True)


def test_what_the_stand_in_for_torch_lacks_is_named() -> None:
    torch = TorchStandIn("torch")
    torch.backends.cuda.matmul.allow_tf32 = True
    assert torch.load(MODEL_PATH)["emb.weight"].shape[0] == 256
    with pytest.raises(MissingExtraError, match=r"torch\.einsum"):
        _ = torch.einsum
