"""Train the small byte-level RWKV-7 model that ships in rwkv_edge/demo, on the Python standard library's own source.

    OMP_WAIT_POLICY=passive python -m bench.train_demo --out MODEL.pth --minutes 58     train
    python -m bench.train_demo --evaluate MODEL.pth        held-out bits per byte, zeros after relu^2
    python -m bench.train_demo --check                     WKV-7 kernels against the step-by-step recurrence

Token id = byte; id 0 separates documents.  Whole modules (HELD_OUT) and their tests are kept out of training.
The learning rate follows the elapsed share of --minutes, so that a run on a busy machine still ends on time;
a run is therefore repeatable in kind, not to the bit.  The wait policy matters there: threads that spin while
they wait for one another take the time the others need (measured: 10 to 30 times slower).

The first command made the shipped python-2.9m.pth: 20.7 M tokens on 2 shared cores (6,000 a second beside other
work, 13,000 alone), 1.123 held-out bits per byte.
Needs torch (a development extra), Numba and, for torch.compile, a C++ compiler.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from numba import set_num_threads
from torch import Tensor, nn

from bench.held_out import HELD_OUT
from bench.wkv7_training import HEAD_SIZE, V7_DECAY, check_kernels, wkv7

LN_EPS, GROUP_NORM_EPS = 1e-5, 64e-5
TEST_SHARE = 0.3  # of the bytes seen in training: test files repeat themselves more than modules do
LENGTHS = 256, 512  # tokens of a segment in the first and the second half of the time
MUON_LR, ADAM_LR = 0.02, 3e-3
KEEP_STATE = 0.9  # chance that a lane carries its state on to the next segment

TEST_DIRS = {"test", "tests", "idle_test"}
SKIPPED = re.compile(  # installed packages, generated tables, files that are broken on purpose
    r"site-packages|lib-dynload|__pycache__|pydoc_data|^config-|_sysconfigdata|html/entities|stringprep|lib2to3/tests"
    r"|^encodings/(?!__init__|aliases|utf_8|idna|punycode)|test/(bad|encoded_modules|test_tomllib|cjkencodings)"
)
OTHER_LICENCE = re.compile(  # a notice besides the PSF licence: leave the file out
    rb"permission is hereby granted|permission to use, copy|redistribution and use|apache licen[sc]e|gnu gpl"
    rb"|mit licen[sc]e|software is provided 'as-is'|spdx-license-identifier",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Config:
    """Shape of the model; 256 is the smallest n_embd on which K-quant formats work."""

    n_layer: int = 4
    n_embd: int = 256
    n_ffn: int = 768
    n_vocab: int = 256
    w_rank: int = 16
    a_rank: int = 16
    v_rank: int = 16
    g_rank: int = 32

    @property
    def n_head(self) -> int:
        return self.n_embd // HEAD_SIZE


# ---- model ----------------------------------------------------------------------------------------------------


def token_shift(x: Tensor, last: Tensor) -> Tensor:
    return torch.cat((last[:, None].to(x.dtype), x[:, :-1]), 1)


def uniform(rows: int, cols: int, gain: float) -> nn.Linear:
    layer = nn.Linear(cols, rows, bias=False)
    nn.init.uniform_(layer.weight, -gain / math.sqrt(cols), gain / math.sqrt(cols))
    return layer


class TimeMix(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, self.layer, self.n_head = config.n_embd, layer, config.n_head
        depth, rest = layer / max(1, config.n_layer - 1), 1 - layer / config.n_layer
        for name, power in zip("rwkvag", (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
            self.vector("x_" + name, 1 - (torch.arange(c) / c) ** (power * rest))
        ramp = torch.linspace(0, 1, c)
        centred = ramp - 0.5
        zigzag = torch.linspace(-1, 1, HEAD_SIZE).repeat(self.n_head)
        zigzag = zigzag * zigzag.abs()
        self.vector("w0", -5.5 + 6 * ramp ** (1 + depth**0.3) + 2.5 * zigzag)
        self.vector("a0", -0.19 + 0.3 * zigzag + 0.4 * centred)
        self.lora("w", config.w_rank, c)
        self.lora("a", config.a_rank, c)
        self.lora("g", config.g_rank, c)
        if layer:  # layer 0 sets the v_first that the others mix in
            self.vector("v0", 0.73 - 0.4 * centred)
            self.lora("v", config.v_rank, c)
        self.vector("k_k", 0.71 - 0.1 * centred)
        self.vector("k_a", torch.full((c,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.n_head, HEAD_SIZE), -0.04))
        self.receptance, self.value = uniform(c, c, 0.5), uniform(c, c, 0.5)
        self.key, self.output = uniform(c, c, 0.05), uniform(c, c, 0.0)
        self.ln_x = nn.GroupNorm(self.n_head, c, eps=GROUP_NORM_EPS)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / config.n_layer) ** 0.7)

    def vector(self, name: str, value: Tensor) -> None:
        setattr(self, name, nn.Parameter(value.float().reshape(1, 1, -1)))

    def lora(self, name: str, rank: int, n_embd: int) -> None:
        setattr(self, name + "1", nn.Parameter(torch.zeros(n_embd, rank)))
        setattr(self, name + "2", nn.Parameter(nn.init.orthogonal_(torch.empty(rank, n_embd), 0.1)))

    def forward(self, x: Tensor, last: Tensor, s: Tensor, v_first: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        difference = token_shift(x, last) - x
        r = self.receptance(x + difference * self.x_r)
        k = self.key(x + difference * self.x_k)
        mixed_v = x + difference * self.x_v
        v = self.value(mixed_v)
        w = torch.tanh((x + difference * self.x_w) @ self.w1) @ self.w2
        w = torch.exp(V7_DECAY * torch.sigmoid((self.w0 + w).float()))
        a = torch.sigmoid(self.a0 + (x + difference * self.x_a) @ self.a1 @ self.a2)
        g = torch.sigmoid((x + difference * self.x_g) @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + mixed_v @ self.v1 @ self.v2)
        heads = (*x.shape[:2], self.n_head, HEAD_SIZE)
        kk = F.normalize((k * self.k_k).float().view(heads), dim=-1, eps=1e-12)
        k = k * (1 + (a - 1) * self.k_a)
        r, w, k, v, a = (z.float().view(heads) for z in (r, w, k, v, a))
        out, states = wkv7(torch.stack((r, w, k, v, -kk, kk * a), 3), s)
        # group norm over each head, as a layer norm so that it fuses with its neighbours
        out = F.layer_norm(out, (HEAD_SIZE,), eps=GROUP_NORM_EPS).reshape(x.shape)
        out = out * self.ln_x.weight + self.ln_x.bias
        out = out + ((r * k * self.r_k).sum(-1, keepdim=True) * v).reshape(x.shape)
        return self.output(out * g), states[:, :, -1], v_first


class ChannelMix(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config.n_embd
        self.x_k = nn.Parameter((1 - (torch.arange(c) / c) ** ((1 - layer / config.n_layer) ** 4)).reshape(1, 1, -1))
        self.key, self.value = uniform(config.n_ffn, c, 0.5), uniform(c, config.n_ffn, 0.0)
        self.zeros: list[float] | None = None  # set to a list to collect the share of zeros after relu^2

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        hidden = torch.relu(self.key(x + (token_shift(x, last) - x) * self.x_k)) ** 2
        if self.zeros is not None:
            self.zeros.append(float((hidden == 0).float().mean()))
        return self.value(hidden)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd, eps=LN_EPS)
        self.ln1, self.ln2 = nn.LayerNorm(config.n_embd, eps=LN_EPS), nn.LayerNorm(config.n_embd, eps=LN_EPS)
        self.att, self.ffn = TimeMix(config, layer), ChannelMix(config, layer)


# What a lane carries on: shifts [L, 2, B, C] (inputs of time and channel mixing), wkv [L, B, H, key, value]
State = tuple[Tensor, Tensor]


class Rwkv7(nn.Module):
    """Parameter names and shapes are those of the released .pth files."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.n_vocab, config.n_embd)
        nn.init.normal_(self.emb.weight, std=0.01)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.ln_out = nn.LayerNorm(config.n_embd, eps=LN_EPS)
        self.head = nn.Linear(config.n_embd, config.n_vocab, bias=False)
        nn.init.orthogonal_(self.head.weight, 0.5)

    def zero_state(self, batch: int) -> State:
        c = self.config
        wkv = torch.zeros(c.n_layer, batch, c.n_head, HEAD_SIZE, HEAD_SIZE)
        return torch.zeros(c.n_layer, 2, batch, c.n_embd), wkv

    def forward(self, tokens: Tensor, shift: Tensor, wkv: Tensor) -> tuple[Tensor, State]:
        """tokens [B, T] and a state -> logits [B, T, V] and the state after them."""
        x, v_first = self.emb(tokens), None
        shifts, states = [], []
        for i, block in enumerate(self.blocks):
            if i == 0:
                x = block.ln0(x)
            att_x = block.ln1(x)
            y, s, v_first = block.att(att_x, shift[i, 0], wkv[i], v_first)
            x = x + y
            ffn_x = block.ln2(x)
            x = x + block.ffn(ffn_x, shift[i, 1])
            shifts.append(torch.stack((att_x[:, -1], ffn_x[:, -1])))
            states.append(s)
        return self.head(self.ln_out(x)), (torch.stack(shifts).float(), torch.stack(states))


# ---- data -----------------------------------------------------------------------------------------------------


@dataclass
class Corpus:
    modules: list[bytes]
    tests: list[bytes]
    held_out: dict[str, bytes]


def tests_held_out(name: str) -> bool:
    """Whether a test file is about a held-out module (or its package), by its name."""
    subjects = {part for held in HELD_OUT for part in (Path(held).stem, held.split("/")[0])}
    return any(f"test_{subject.strip('_')}" in name for subject in subjects)


def load_corpus(root: Path) -> Corpus:
    corpus = Corpus([], [], {})
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        text = path.read_bytes()
        if name in HELD_OUT:
            corpus.held_out[name] = text
        elif SKIPPED.search(name) or OTHER_LICENCE.search(text) or b"\0" in text or not readable(text):
            continue
        elif TEST_DIRS.isdisjoint(path.relative_to(root).parts):
            corpus.modules.append(text)
        elif not tests_held_out(name):
            corpus.tests.append(text)
    return corpus


def readable(text: bytes) -> bool:
    """UTF-8 that is not mostly a table of escapes or foreign letters."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return len(text) > 200 and text.count(b"\\x") + sum(c > 127 for c in text) < len(text) / 20


def shuffled(documents: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from random.sample(documents, len(documents))


def documents(corpus: Corpus) -> Iterator[bytes]:
    """Modules and tests in random order, each led by a 0; tests make up TEST_SHARE of the bytes."""
    modules, tests = shuffled(corpus.modules), shuffled(corpus.tests)
    owed = 0.0
    while True:
        text = next(tests if owed > 0 else modules)
        owed += TEST_SHARE * len(text) - (len(text) if owed > 0 else 0)
        yield b"\0" + text


class Lanes:
    """Batch lanes that each read one document after another, segment by segment."""

    def __init__(self, corpus: Corpus, n_lane: int) -> None:
        self.documents = documents(corpus)
        self.buffers = [bytearray() for _ in range(n_lane)]

    def segment(self, length: int) -> Tensor:
        """tokens [B, length + 1]; the last one is also the first of the next segment."""
        for buffer in self.buffers:
            while len(buffer) <= length:
                buffer += next(self.documents)
        rows = torch.tensor([list(buffer[: length + 1]) for buffer in self.buffers])
        for buffer in self.buffers:
            del buffer[:length]
        return rows


# ---- training -------------------------------------------------------------------------------------------------


def export(model: Rwkv7, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: p.detach().bfloat16().contiguous() for name, p in model.state_dict().items()}, path)


def load_model(path: Path) -> Rwkv7:
    """The exported bf16 weights, in fp32."""
    model = Rwkv7(Config())
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def optimizers(model: Rwkv7) -> list[torch.optim.Optimizer]:
    """Muon for the large matrices between residual stream and residual stream, AdamW for everything else."""
    matrices = [p for name, p in model.blocks.named_parameters() if name.endswith("weight") and p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not q for q in matrices)]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate(done: float) -> float:
    """Share of the full rate after this share of the time: short warm-up, level, then linear to zero."""
    return min(done / 0.01, 1.0, (1 - done) / 0.8) if done < 1 else 0.0


def make_step(model: Rwkv7) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    """A function that adds up gradients and returns the loss and the state after the segment."""

    @torch.compile(dynamic=False)
    def forward(tokens: Tensor, shift: Tensor, wkv: Tensor) -> tuple[Tensor, State]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, state = model(tokens[:, :-1], shift, wkv)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()), state

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        loss, (shift, wkv) = forward(tokens, *state)
        loss.backward()
        lanes = (torch.rand(len(tokens)) < KEEP_STATE).float()
        return loss.detach(), (shift.detach() * lanes[:, None], wkv.detach() * lanes[:, None, None, None])

    return step


def train(out: Path, minutes: float, n_lane: int) -> None:
    corpus = load_corpus(Path(sysconfig.get_paths()["stdlib"]))
    print(
        f"modules {len(corpus.modules)} files {sum(map(len, corpus.modules))} bytes, tests {len(corpus.tests)} files "
        f"{sum(map(len, corpus.tests))} bytes, held out {len(corpus.held_out)} files "
        f"{sum(map(len, corpus.held_out.values()))} bytes"
    )
    model = Rwkv7(Config())
    step, lanes, state = make_step(model), Lanes(corpus, n_lane), model.zero_state(n_lane)
    optims = optimizers(model)
    for length in LENGTHS:  # compile before the clock starts
        step(lanes.segment(length), state)
    model.zero_grad()
    full_rates = [optim.param_groups[0]["lr"] for optim in optims]
    start = last_log = last_export = time.monotonic()
    tokens, losses = 0, []
    while (done := (time.monotonic() - start) / (minutes * 60)) < 1:
        length = LENGTHS[done >= 0.5]
        loss, state = step(lanes.segment(length), state)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim, rate in zip(optims, full_rates, strict=True):
            optim.param_groups[0]["lr"] = rate * learning_rate(done)
            optim.step()
            optim.zero_grad()
        losses.append(float(loss))
        tokens += n_lane * length
        now = time.monotonic()
        if now - last_log > 20:
            bits = sum(losses) / len(losses) / math.log(2)
            speed = len(losses) * n_lane * length / (now - last_log)
            print(f"{done:6.1%} {tokens / 1e6:6.2f} M tokens  {speed:5.0f} tok/s  train {bits:.3f} bpb", flush=True)
            last_log, losses = now, []
        if now - last_export > 300:
            export(model, out)
            print(f"held out {evaluate(load_model(out), corpus.held_out)[0]:.4f} bpb", flush=True)
            last_log = last_export = time.monotonic()
    export(model, out)
    print(f"{tokens} tokens; held out {evaluate(load_model(out), corpus.held_out)[0]:.4f} bpb")


# ---- use ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(model: Rwkv7, files: dict[str, bytes], window: int = 4096) -> tuple[float, dict[str, float]]:
    """Bits per byte over all files and per file, each read whole from the zero state after a separator."""
    bits: dict[str, float] = {}
    for name, text in files.items():
        tokens, state, bits[name] = torch.tensor([[0, *text]]), model.zero_state(1), 0.0
        for i in range(0, len(text), window):
            part = tokens[:, i : i + window + 1]
            logits, state = model(part[:, :-1], *state)
            bits[name] += float(F.cross_entropy(logits[0], part[0, 1:], reduction="sum")) / math.log(2)
    return sum(bits.values()) / sum(map(len, files.values())), {n: bits[n] / len(files[n]) for n in files}


def report(path: Path) -> None:
    model, corpus = load_model(path), load_corpus(Path(sysconfig.get_paths()["stdlib"]))
    for block in model.blocks:
        block.ffn.zeros = []
    total, per_file = evaluate(model, corpus.held_out)
    for name, bits in per_file.items():
        print(f"{bits:.3f} {name}")
    shares = [sum(block.ffn.zeros) / len(block.ffn.zeros) for block in model.blocks]
    print(f"held out: {total:.4f} bits per byte over {sum(map(len, corpus.held_out.values()))} bytes")
    print("zeros after relu^2 by layer:", " ".join(f"{share:.3f}" for share in shares))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="train and write the model here")
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--lanes", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", type=Path, metavar="MODEL")
    parser.add_argument("--check", action="store_true", help="check the WKV-7 kernels")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    if args.check:
        check_kernels()
    if args.out:
        train(args.out, args.minutes, args.lanes)
    if args.evaluate:
        report(args.evaluate)


if __name__ == "__main__":
    main()
