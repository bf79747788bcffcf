"""Makes `world_goldens.json` with the official tokenizer: `pip install rwkv`, then run this file."""

import hashlib
import json
import random
import tempfile
from pathlib import Path

import rwkv
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

VOCABULARY = Path(rwkv.__file__).with_name("rwkv_vocab_v20230424.txt")
TARGET = Path(__file__).with_name("world_goldens.json")

TEXTS = [
    "",
    "\0",
    "a",
    "Hello, world!",
    "User: hi\n\nAssistant:",
    "User: hi\n\nAssistant: <think>\n</think>\n\n",
    "The quick brown fox jumps over the lazy dog. It's 3.14159, isn't it?",
    "    def __init__(self, *args: Any, **kwargs: Any) -> None:\n        self._ids = {}\n\n\n\treturn None\r\n",
    '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 0x7fff);\n}\n',
    '{"name": "f", "arguments": {"x": [1, 2.5e-3, null]}}',
    "a  b   c    d     e" + " " * 40 + "f" + " " * 129 + "g" + " " * 300,
    "\n" * 20 + " \n \n\n  \n\t\n \t x",
    "=" * 200 + "-" * 81 + "#" * 79 + "*" * 77,
    "0 00 000 0000 1234567890 2024-11-21 12:34:56 1,000,000 3.0 ⅔ ²³",
    "人工智能正在改变世界。今天天气很好，我们去公园吧！“引号”——破折号……\n第二行",
    "吾輩は猫である。名前はまだ無い。カタカナとひらがな、ﾊﾝｶｸ",
    "안녕하세요, 만나서 반갑습니다.",
    "Привет, мир! Как дела? Съешь же ещё этих мягких французских булок.",
    "Les élèves étaient déjà là; Österreich größer Straße; façade, naïve, coöperate, Łódź, İstanbul",
    "مرحبا بالعالم، كيف حالك؟ שלום עולם",
    "नमस्ते दुनिया ສະບາຍດີ สวัสดีชาวโลก",
    "😀😂🤖🎉 👍🏽 ❤️ 👨‍👩‍👧‍👦 🇩🇪🇯🇵 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "e\u0301 vs \u00e9; \u200b\ufeff\u00a0\u3000\u2028",
    "…\n 。\n ，\n »,\u00a0«.»",
    "\U0010ffff\ue000\x7f\x80\x9f",
    "https://github.com/BlinkDL/RWKV-LM?tab=readme#top user@example.org C:\\Windows\\System32",
    "∑_{i=1}^{n} x_i ≤ √2 · π ∈ ℝ \\frac{\\partial f}{\\partial x}",
]


def cases(official: TRIE_TOKENIZER) -> list[bytes]:
    rng = random.Random(20230424)
    tokens = list(official.idx2token.values())
    texts = [text.encode() for text in TEXTS]
    texts.append(bytes(range(256)))
    texts.append(bytes(range(255, -1, -1)))
    texts += [rng.randbytes(300) for _ in range(4)]
    texts += [b"".join(t[: rng.randint(1, len(t))] for t in rng.choices(tokens, k=80)) for _ in range(6)]
    texts += [text[1:-1] for text in texts[14:22]]  # characters cut in half at both ends
    return texts


def golden(official: TRIE_TOKENIZER, texts: list[bytes]) -> list[dict[str, object]]:
    return [{"hex": text.hex(), "ids": official.encodeBytes(text)} for text in texts]


def main() -> None:
    official = TRIE_TOKENIZER(str(VOCABULARY))
    digest = hashlib.sha256()
    for token_id, token in sorted(official.idx2token.items()):
        digest.update(b"%d %d " % (token_id, len(token)) + token)
    texts = cases(official)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as first:
        first.writelines(VOCABULARY.read_text(encoding="utf-8").splitlines(keepends=True)[:511])
        first.flush()
        small = TRIE_TOKENIZER(first.name)
    content = {
        "made_by": "tests/tokenizer/make_goldens.py with the official tokenizer of the rwkv package",
        "vocabulary_sha256": digest.hexdigest(),
        "world": golden(official, texts),
        "first_511": golden(small, texts[:16]),
    }
    lines = json.dumps(content, separators=(",", ":")).replace('{"hex"', '\n{"hex"')
    TARGET.write_text(lines + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(texts)} texts, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
