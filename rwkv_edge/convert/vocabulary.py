"""The tokenizer fields of a GGUF file, as llama.cpp's converter writes them for World models."""
from collections.abc import Sequence
from pathlib import Path

from rwkv_edge.convert.gguf_format import Value
from rwkv_edge.errors import RwkvEdgeError
from rwkv_edge.tokenizer.bpe import BpeTokenizer
from rwkv_edge.tokenizer.choose import tokenizer_for
from rwkv_edge.weights.tensor import Weights

NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types
END_OF_TURN = b"\n\n"

# What the models were trained on. llama.cpp knows its own RWKV template by the line that begins with "User: ".
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- 'System: ' + message['content']|trim + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- 'User: ' + message['content']|trim + '\\n\\n' -}}
{%- elif message['content'] is not none -%}
{{- 'Assistant: ' + message['content'].split('</think>')[-1]|trim + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt is not defined or add_generation_prompt -%}
{{- 'Assistant:' -}}
{%- endif -%}"""


def vocabulary_fields(weights: Weights, n_vocab: int, arch: str) -> dict[str, Value]:
    """Tokenizer metadata: the source's own vocabulary, or the one that belongs to a model of this many tokens.

    A vocabulary that this form cannot express (the 20B one of the Pile models), or an unknown one, is left out.
    """
    tokens = _tokens(weights, n_vocab)
    if tokens is None:
        return {"tokenizer.ggml.model": "none", f"{arch}.vocab_size": n_vocab}
    padding = {f"[PAD{i}]" for i in range(n_vocab)}
    types = [CONTROL, *(UNUSED if token in padding else NORMAL for token in tokens[1:])]
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    if escaped(END_OF_TURN) in tokens:
        fields["tokenizer.ggml.eot_token_id"] = tokens.index(escaped(END_OF_TURN))
        fields["tokenizer.chat_template"] = CHAT_TEMPLATE
    template = weights.metadata.get("tokenizer.chat_template")
    return fields | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})


def escaped(token: bytes) -> str:
    """As Python shows the bytes."""
    return repr(token)[2:-1]


def _tokens(weights: Weights, n_vocab: int) -> Sequence[str] | None:
    """The escaped text of each id; None where there is no such list."""
    if weights.hints.vocabulary is not None:
        return weights.hints.vocabulary if len(weights.hints.vocabulary) == n_vocab else None
    path = weights.metadata.get("vocabulary_file")
    try:
        tokenizer = tokenizer_for(n_vocab, path=Path(path) if path else None)
    except RwkvEdgeError:
        return None
    if isinstance(tokenizer, BpeTokenizer):
        return None
    pieces = (tokenizer.decode_bytes([i]) for i in range(1, n_vocab))
    return ["<s>", *(escaped(piece) if piece else f"[PAD{i}]" for i, piece in enumerate(pieces, 1))]
