"""Prompts as exact strings, against the model cards and RWKV7-G1x-templates.txt."""
import pytest

from rwkv_edge import InputError, Message
from rwkv_edge.chat.choose import guess
from rwkv_edge.chat.formats import FORMATS, ChatFormat
from rwkv_edge.chat.messages import checked_messages, clean

HI = Message("user", "hi")


def prompt(name: str, *messages: Message, think: str = "off") -> str:
    return FORMATS[name].continued("", messages, 0, think)


SINGLE = [
    ("world", "off", "User: hi\n\nAssistant:"),
    ("g1", "off", "User: hi\n\nAssistant:"),
    ("g1", "on", "User: hi\n\nAssistant: <think"),
    ("g1", "fast", "User: hi\n\nAssistant: <think>\n</think"),
    ("g1", "short", "User: hi (think a bit)\n\nAssistant: <think"),
    ("g1", "medium", "User: hi (think)\n\nAssistant: <think"),
    ("g1", "long", "User: hi (think a lot)\n\nAssistant: <think"),
    ("g1-2025", "fast", "User: hi\n\nAssistant: <think>\n</think"),
    ("g1-2025", "short", "User: hi think a bit\n\nAssistant: <think"),
    ("g1-2025", "medium", "User: hi think\n\nAssistant: <think"),
    ("g1-2025", "long", "User: hi think a lot\n\nAssistant: <think"),
    ("qa", "off", "Question: hi\n\nAnswer:"),
    ("instruct", "off", "Instruction: hi\n\nResponse:"),
    ("raven", "off", "Bob: hi\n\nAlice:"),
]


@pytest.mark.parametrize(("name", "think", "expected"), SINGLE)
def test_one_question(name: str, think: str, expected: str) -> None:
    assert prompt(name, HI, think=think) == expected


def test_no_prompt_ends_in_a_space_or_a_whole_think_mark() -> None:
    for format in FORMATS.values():
        for think in format.think_modes:
            text = format.continued("", [HI], 0, think)
            assert text == text.rstrip(" ")
            assert not text.endswith(">")


def test_system_and_earlier_turns() -> None:
    messages = [Message("system", "Be\n\nbrief.\r\n"), HI, Message("assistant", "Hello."), Message("user", "a\r\n\r\n\nb\n")]
    expected = "System: Be\nbrief.\n\nUser: hi\n\nAssistant: Hello.\n\nUser: a\nb\n\nAssistant:"
    assert prompt("world", *messages) == expected
    known = "System: Be\nbrief.\n\nUser: hi\n\nAssistant: Hello."
    assert FORMATS["world"].continued(known, messages, 3, "off") == expected
    assert prompt("g1", *messages, think="short") == expected.replace("a\nb", "a\nb (think a bit)") + " <think"


def test_an_instruction_and_its_input() -> None:
    message = Message("user", "Translate to German.\n\nGood\n\nmorning.")
    assert prompt("instruct", message) == "Instruction: Translate to German.\n\nInput: Good\nmorning.\n\nResponse:"
    about = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    expected = f"{about}\n\n# Instruction:\nTranslate to German.\n\n# Input:\nGood\nmorning.\n\n# Response:\n"
    assert prompt("raven-instruct", message) == expected
    turns = [HI, Message("assistant", "Yes."), HI]
    expected = f"{about}\n\n# Instruction:\nhi\n\n# Response:\nYes.\n\n# Instruction:\nhi\n\n# Response:\n"
    assert prompt("raven-instruct", *turns) == expected
    assert prompt("raven-instruct", Message("system", "Do it."), HI) == "Do it.\n\n# Instruction:\nhi\n\n# Response:\n"


def test_braces_in_messages_stay() -> None:
    assert prompt("world", Message("user", "{} {x}")) == "User: {} {x}\n\nAssistant:"


def test_stop_strings_are_the_next_turns() -> None:
    assert FORMATS["world"].stop == FORMATS["g1"].stop == ("\n\nUser:", "\n\nAssistant:", "\n\nSystem:")
    assert FORMATS["qa"].stop == ("\n\nQuestion:", "\n\nAnswer:")
    assert FORMATS["instruct"].stop == ("\n\nInstruction:", "\n\nResponse:", "\n\nInput:")
    assert FORMATS["raven"].stop == ("\n\nBob:", "\n\nAlice:")
    assert FORMATS["raven-instruct"].stop == ("\n\n# Instruction:", "\n\n# Response:", "\n\n# Input:")


def test_sampling_is_that_of_the_cards() -> None:
    chat = FORMATS["g1"].sampling
    assert (chat.temperature, chat.top_p, chat.presence_penalty, chat.frequency_penalty, chat.penalty_decay) == (
        1, 0.3, 0.5, 0.5, 0.996,
    )  # fmt: skip
    raven = FORMATS["raven"].sampling
    assert (raven.temperature, raven.top_p, raven.presence_penalty, raven.frequency_penalty) == (1, 0.8, 0.2, 0.2)


@pytest.mark.parametrize(
    ("names", "n_vocab", "expected"),
    [
        ("rwkv7-g1e-1.5b-20260201-ctx8192.pth", 65536, "g1"),
        ("rwkv7-g1c-13.3b", 65536, "g1"),
        ("model.gguf RWKV7 G1D 2.9B", 65536, "g1"),
        ("rwkv7-g1b-1.5b-20251202-ctx8192.pth", 65536, "g1-2025"),
        ("rwkv7-g1a2-7.2b", 65536, "g1-2025"),
        ("rwkv7-g1-0.1b-20250307-ctx4096.pth", 65536, "g1-2025"),
        ("rwkv7-g0b-13.3b", 65536, "g1-2025"),
        ("RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth", 65536, "world"),
        ("RWKV-4-World-1.5B-v1.pth", 65536, "world"),
        ("RWKV-4-Raven-3B-v12-Eng.pth", 50277, "raven"),
        ("RWKV-4-Pile-430M.pth", 50277, "raven"),
        ("big1b.pth", 65536, "world"),
        ("python-2.9m.pth", 256, "world"),
    ],
)
def test_the_format_is_guessed_from_name_and_vocabulary(names: str, n_vocab: int, expected: str) -> None:
    assert guess(names, n_vocab) == expected


def test_blank_lines_are_dropped() -> None:
    assert clean(" a\r\n\r\nb\n\n\n\nc \n\n") == "a\nb\nc"


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ("hi", "must be a list"),
        ({"role": "user", "content": "x"}, "must be a list"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"role": "user"}], "must be like"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must be text"),
        ([{"role": "user", "content": " \n"}], "empty"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "only the first"),
    ],
)
def test_messages_that_cannot_be_are_refused(messages: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        checked_messages(messages)  # type: ignore[arg-type]


def test_what_a_format_cannot_do_is_one_sentence() -> None:
    with pytest.raises(InputError, match="qa has no system prompt"):
        prompt("qa", Message("system", "x"), HI)
    with pytest.raises(InputError, match="world has no think mode 'on', only off"):
        prompt("world", HI, think="on")


def test_a_format_of_your_own() -> None:
    mine = ChatFormat("mine", user="<u>{}", assistant="<a>")
    assert mine.continued("", [HI], 0, "off") == "<u>hi\n\n<a>"
    assert mine.stop == ("\n\n<u>", "\n\n<a>")
