"""How much each column of a matrix matters to a user: the size of what it is multiplied with, on the user's own text.

The encoders weight squared errors by it. It is the root of the mean square: with the mean square itself, which makes each
product's own error least, predictions suffer more (bench/results/calibrate.md), for the norms behind a product bound what rare,
large activations do.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import auto
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Batch, CompileOptions, Executable
from rwkv_edge.convert.encoding import Importance
from rwkv_edge.convert.mix import MATRIX
from rwkv_edge.errors import InputError
from rwkv_edge.plan import Buffer, MatMul, Op, Plan, PlanBuilder, SelectOutputs
from rwkv_edge.progress import Progress
from rwkv_edge.slot import Slot, initial_state
from rwkv_edge.tokenizer import END_OF_DOCUMENT, tokenizer_for
from rwkv_edge.weights.tensor import Weights

FEWEST_TOKENS = 512
MOST_TOKENS = 16384  # figures hardly change beyond
LONGEST_TOKEN = 128  # bytes, in the World vocabulary
PROBED_PER_RUN = 128  # tokens: their activations are what it takes memory for


def tokens_of(weights: Weights, n_vocab: int, text: str | Path, vocabulary: str | Path | None) -> list[int]:
    """The first MOST_TOKENS of a file, by this vocabulary file or the model's own.

    Raises InputError: cannot be read, too short; TokenizerError: no vocabulary, or it has no token for something in the text.
    """
    path = vocabulary or weights.metadata.get("vocabulary_file")
    tokenizer = tokenizer_for(n_vocab, gguf_tokens=weights.hints.vocabulary, path=path)
    try:
        with Path(text).open("rb") as file:
            tokens = tokenizer.encode(file.read(MOST_TOKENS * LONGEST_TOKEN))[:MOST_TOKENS]
    except OSError as error:
        raise InputError(f"{text}: cannot be read: {str(error.strerror).lower()}") from error
    if len(tokens) < FEWEST_TOKENS:
        raise InputError(f"{text}: has {len(tokens)} tokens, too few to calibrate with: expected at least {FEWEST_TOKENS}")
    return tokens


def activation_sizes(
    weights: Weights, tokens: Sequence[int], *, threads: int | None = None, progress: Progress | None = None
) -> Importance:
    """Name of each matrix that is multiplied -> float32 [width], the root mean square of its input over `tokens`.

    Memory: the mapped weights and the activations of PROBED_PER_RUN tokens. progress: called with tokens done, and all of them.
    """
    plan, probes = probed(build_plan(weights))
    executable = auto.best().compile(plan, CompileOptions(threads=threads, sparse=False))
    state = initial_state(plan.slots, executable.state_dtype)
    try:
        _feed(executable, state, [END_OF_DOCUMENT, *tokens], progress)
    finally:
        executable.close()  # fetches the state from where it may be held
    return {name: _root_mean(probe.of(state)) for name, probe in probes.items()}


def probed(plan: Plan) -> tuple[Plan, Mapping[str, Slot]]:
    """The plan without its last product, and for each matrix's name a slot: see `_probe`, `_root_mean`.

    What follows SelectOutputs is computed for all tokens; no logits come out.
    """
    p, probes = PlanBuilder(slots=list(plan.slots)), {}
    p.buffers += (replace(buffer, per_output=False) for buffer in plan.buffers)
    for op in _for_all_rows(plan):
        if isinstance(op, MatMul) and MATRIX.fullmatch(op.weight.name):
            probes[op.weight.name] = _probe(p, op)
        if op.out.index != plan.logits.index:
            p.ops.append(op)
    return p.finish(p.select_outputs(p.ops[-1].out)), probes


def _probe(p: PlanBuilder, op: MatMul) -> Slot:
    """A Wkv4 with keys, decay and bonus 0: its slot sums up the values, here squares, and counts them. Every backend has it."""
    width = op.x.width
    zeros = np.zeros(width, np.float32)
    initial = np.repeat(np.array([0.0, 0.0, -1e30], np.float32), width).reshape(3, width)
    slot = p.slot(f"{op.weight.name} squares", 3, width, initial=initial)
    p.wkv4(p.scale(op.x, 0.0), p.multiply(op.x, op.x), zeros, zeros, slot)
    return slot


def _root_mean(slot: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a probe's slot: sums, counts, and the largest key."""
    size: NDArray[np.float32] = np.sqrt(slot[0] / slot[1], dtype=np.float32)
    return size


def _for_all_rows(plan: Plan) -> Iterator[Op]:
    """The ops without SelectOutputs, as if it selected every row."""
    (selection,) = (op for op in plan.ops if isinstance(op, SelectOutputs))
    for op in plan.ops:
        if op is not selection:
            moved: dict[str, Any] = {}
            for field in fields(op):
                if isinstance(buffer := getattr(op, field.name), Buffer):
                    moved[field.name] = selection.x if buffer is selection.out else replace(buffer, per_output=False)
            yield replace(op, **moved)


def _feed(executable: Executable, state: NDArray[Any], tokens: Sequence[int], progress: Progress | None) -> None:
    for begin in range(0, len(tokens), PROBED_PER_RUN):
        piece = np.asarray(tokens[begin : begin + PROBED_PER_RUN], np.int32)
        executable.run(Batch(piece, [len(piece)], [state], np.empty(0, np.int32)))
        if progress:
            progress(begin + len(piece), len(tokens))
