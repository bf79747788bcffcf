"""How fast the World tokenizer is: `python -m bench.tokenizer`, one thread, CPU time, best of several runs.

Text: 0.6 MB, English and code from Python's own library, Chinese, Russian, emoji and numbers drawn from word lists with
a fixed seed, shuffled together in blocks of 600 characters. "first" is a tokenizer that has not seen the text, "again"
one that has and remembers its words. With the `rwkv` package installed, its tokenizer runs beside ours.
"""

import argparse
import inspect
import platform
import pydoc_data.topics
import random
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from rwkv_edge.tokenizer.world import WORLD_FILE, world_tokenizer

CHINESE = """
人工智能 模型 语言 我们 今天 天气 很好 学习 时间 中国 北京 上海 大学 研究 发展 经济 社会 问题 可以 因为 所以
但是 如果 他们 自己 没有 一个 这个 什么 知道 工作 生活 世界 历史 文化 科学 技术 计算机 网络 数据 方法 结果
重要 提高 需要 使用 进行 通过 关于 的 了 在 是 和 不 有 就 人 都 说 要 去 会 着 看 好 到 也 与 中 用 从 把 被
让 给 ， 。
"""
RUSSIAN = """
и в не на я быть он с что а по это она этот к но они мы весь который из у то за свой год от так для ты же все
тот мочь вы человек такой его сказать только или ещё бы себя один как уже до время если сам когда другой
говорить наш мой знать стать при чтобы дело жизнь кто первый очень два день её новый рука даже во со раз где
там под можно после работа без самый потом надо хотеть слово идти большой должен место иметь ничто. Однако,
Почему? Россия, язык, модель.
"""
EMOJI = "😀 😂 🤖 🎉 👍🏽 ❤️ 👨‍👩‍👧 🇩🇪 🚀 ✅"


def samples() -> dict[str, bytes]:
    """The test text by kind, and all kinds mixed, in UTF-8."""
    rng = random.Random(5)
    words: dict[str, Iterable[str]] = {
        "Chinese": rng.choices(CHINESE.split(), k=25_000),
        "Russian": (word + " " for word in rng.choices(RUSSIAN.split(), k=16_000)),
        "emoji": (word + " " for word in rng.choices(EMOJI.split(), k=2_000)),
        "numbers": (f"{rng.randrange(10 ** rng.randint(1, 9))} {rng.random():.4f} " for _ in range(4_000)),
    }
    texts = {
        "English": " ".join(pydoc_data.topics.topics.values())[:150_000],
        "code": "".join(map(inspect.getsource, (argparse, typing, inspect)))[:150_000],
    } | {kind: "".join(parts) for kind, parts in words.items()}
    blocks = [text[i : i + 600] for text in texts.values() for i in range(0, len(text), 600)]
    rng.shuffle(blocks)
    texts["mixed"] = "".join(blocks)
    return {kind: text.encode() for kind, text in texts.items()}


def seconds(work: Callable[[], object], before: Callable[[], object] = lambda: None, repeats: int = 7) -> float:
    """CPU time of `work`, best of `repeats`, each after `before`."""
    times = []
    for _ in range(repeats):
        before()
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def official() -> Callable[[bytes], list[int]] | None:
    """The `rwkv` package's own World tokenizer, if it is installed."""
    try:
        from rwkv import rwkv_tokenizer
    except ImportError:
        return None
    vocabulary = Path(rwkv_tokenizer.__file__).with_name("rwkv_vocab_v20230424.txt")
    encode: Callable[[bytes], list[int]] = rwkv_tokenizer.TRIE_TOKENIZER(str(vocabulary)).encodeBytes
    return encode


def loading() -> float:
    """Wall milliseconds to load and build World in a new process, best of 5."""
    program = """if True:
        from rwkv_edge.tokenizer import world_tokenizer
        from time import perf_counter
        start = perf_counter()
        world_tokenizer()
        print(1e3 * (perf_counter() - start))"""
    command = [sys.executable, "-c", program]
    return min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5))


def main() -> None:
    tokenizer, theirs = world_tokenizer(), official()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"world.bin {WORLD_FILE.stat().st_size} bytes; load and build {loading():.1f} ms\n")
    print(f"{'MB/s':8} {'bytes':>8} {'tokens':>7} {'first':>7} {'again':>7} {'decode':>7} {'official':>9}")
    for kind, text in samples().items():
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids) == text
        assert theirs is None or theirs(text) == ids
        times = [
            seconds(partial(tokenizer.encode, text), before=tokenizer._remembered.clear),
            seconds(partial(tokenizer.encode, text)),
            seconds(partial(tokenizer.decode_bytes, ids)),
            seconds(partial(theirs, text), repeats=3) if theirs else float("nan"),
        ]
        first, again, decode, other = (len(text) / t / 1e6 for t in times)
        print(f"{kind:8} {len(text):8} {len(ids):7} {first:7.1f} {again:7.1f} {decode:7.0f} {other:9.1f}")


if __name__ == "__main__":
    main()
