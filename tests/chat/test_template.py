"""Chat templates of GGUF files and model directories."""
import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge import InputError, Message, MissingExtraError, Model, quantize
from rwkv_edge.arch import read_shape
from rwkv_edge.chat.choose import choose_format
from rwkv_edge.chat.template import TemplateFormat, _compiled, template_of
from rwkv_edge.convert.vocabulary import CHAT_TEMPLATE
from rwkv_edge.weights import Weights, open_weights
from tests.chat.scripted import Script

pytest.importorskip("jinja2")

CHATML = """{{ bos_token }}{% for message in messages %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking %}<think>
{% endif %}{% endif %}"""
TURNS = [Message("system", "S"), Message("user", "hi"), Message("assistant", "Yes."), Message("user", "b")]


@pytest.fixture
def weights(world_path: Path) -> Weights:
    return open_weights(world_path)


def with_template(weights: Weights, template: Any) -> Weights:
    return replace(weights, metadata={**weights.metadata, "tokenizer.chat_template": template})


def test_a_template_writes_the_conversation() -> None:
    format = TemplateFormat(CHATML)
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    text += "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    assert format.continued("", TURNS, 0, "off") == text
    assert format.continued("", TURNS, 0, "on") == text + "<think>\n"
    assert format.stop == ("<|im_end|>",)


def test_the_template_that_we_write_ends_at_the_users_turn() -> None:
    format = TemplateFormat(CHAT_TEMPLATE)
    assert format.continued("", TURNS, 0, "off") == "System: S\n\nUser: hi\n\nAssistant: Yes.\n\nUser: b\n\nAssistant:"
    assert format.stop == ("\n\nUser:",)


def test_our_own_format_is_the_default_where_the_template_is_for_the_same_one(weights: Weights) -> None:
    shape = read_shape(weights)
    assert choose_format(with_template(weights, CHAT_TEMPLATE), shape).name == "g1"
    assert choose_format(with_template(weights, CHATML), shape).name == "template"
    assert choose_format(with_template(weights, CHATML), shape, "world").name == "world"
    assert choose_format(with_template(weights, CHAT_TEMPLATE), shape, "template").name == "template"
    assert choose_format(with_template(weights, "rwkv-world"), shape).name == "g1"
    assert choose_format(with_template(weights, "rwkv-world"), shape, "template").name == "world"


def test_a_gguf_file_brings_its_template(world_path: Path, tmp_path: Path) -> None:
    quantize(world_path, tmp_path / "model.gguf", type="f16")
    weights = open_weights(tmp_path / "model.gguf")
    assert template_of(weights) == CHAT_TEMPLATE
    assert choose_format(weights, read_shape(weights), "template").stop == ("\n\nUser:",)


def test_templates_beside_safetensors(weights: Weights, tmp_path: Path) -> None:
    ours = replace(weights, source="safetensors", path=tmp_path / "model.safetensors")
    assert template_of(ours) is None
    for value in ("T", [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "T"}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        assert template_of(ours) == "T"
        assert template_of(replace(ours, path=tmp_path)) == "T"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [1]}))
    assert template_of(ours) is None
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert template_of(ours) == "newer"
    assert template_of(replace(ours, source="pth")) is None


def test_the_end_of_a_document_is_not_fed() -> None:
    assert TemplateFormat("<|rwkv_tokenizer_end_of_text|>x{{ eos_token }}").continued("", TURNS, 0, "off") == "x"


def test_a_conversation_in_a_template_reads_only_what_is_new(
    world_model: Model, script: Script, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.will_answer("Hi<|im_end|>\n", "Bye<|im_end|>")
    monkeypatch.setattr(world_model, "weights", with_template(weights, CHATML))
    chat = world_model.chat()
    assert chat.ask("hi").read() == "Hi"
    assert chat.ask("bye").read() == "Bye"
    assert script.prompts == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_a_template_that_rewrites_the_past_makes_it_read_again(
    world_model: Model, script: Script, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.will_answer(" <think>Hm</think>Hi", " Ho")  # the template drops earlier thoughts
    monkeypatch.setattr(world_model, "weights", with_template(weights, CHAT_TEMPLATE))
    chat = world_model.chat(format="template")
    chat.ask("a").read()
    chat.ask("b").read()
    assert script.prompts[1] == "User: a\n\nAssistant: Hi\n\nUser: b\n\nAssistant:"
    tokens = world_model.tokenize("User: a\n\nAssistant: Hi\n\nUser: b\n\nAssistant: Ho")
    assert chat.state.tokens_seen == len(tokens)
    assert chat.undo() == "b"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ messages[99]['role'] }}", "does not take"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe|access"),
        ("{% for i in range(10**9) %}{% endfor %}", "too big|range"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_what_a_template_does_wrong_is_one_sentence(template: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TemplateFormat(template).continued("", TURNS, 0, "off")


def test_a_template_that_is_none() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        TemplateFormat("{% if %}")


def test_without_jinja2_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _compiled.cache_clear()
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'rwkv-edge\[chat\]'"):
        TemplateFormat(CHATML)
