"""Conversations: what is read and when, what the state has seen, undo, retry, cancelling, files, threads."""
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkv_edge import Chat, InputError, Model, Sampling, State, StateError
from rwkv_edge.chat import conversation
from rwkv_edge.chat.reply import Reply
from tests.chat.scripted import Script
from tests.conftest import need_backend
from tests.text.test_generation import counted


def pairs(chat: Chat) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in chat.messages]


def assert_state_has_read(model: Model, state: State, text: str) -> None:
    """Whatever the tokens were cut like: all of `text`, as if it were read at once."""
    whole = model.tokenize(text)
    assert state.tokens_seen == len(whole)
    assert np.allclose(state.data, model.forward(whole)[1].data, atol=1e-4)


def test_two_turns_are_as_if_the_whole_text_were_read_at_once(world_model: Model, script: Script) -> None:
    script.will_answer([" Hello", " there", ".", "\n\n", "User", ":", " x"], [" Fine", ".", " \n\n", "User", ":"])
    chat = world_model.chat()
    assert chat.ask("hi\n\nyou").read() == "Hello there."
    assert_state_has_read(world_model, chat.state, "User: hi\nyou\n\nAssistant: Hello there.")
    assert chat.ask("How are you?").read() == "Fine."
    text = "User: hi\nyou\n\nAssistant: Hello there.\n\nUser: How are you?\n\nAssistant: Fine."
    assert_state_has_read(world_model, chat.state, text)
    assert script.prompts == ["User: hi\nyou\n\nAssistant:", "\n\nUser: How are you?\n\nAssistant:"]
    # The second answer ended in a token that it shares with the stop string: it is read with the next turn.
    chat.ask("Good").read()
    assert script.prompts[2] == " \n\nUser: Good\n\nAssistant:"
    assert pairs(chat)[:4] == [
        ("user", "hi\n\nyou"), ("assistant", "Hello there."), ("user", "How are you?"), ("assistant", "Fine."),
    ]  # fmt: skip


WORDS = ["a", "é", "→", "\n", "\n\n", "User:", "😀"]
ACTION = st.one_of(
    st.tuples(st.just("ask"), st.lists(st.sampled_from(WORDS), max_size=6), st.integers(0, 12)),
    st.tuples(st.sampled_from(["undo", "retry"]), st.just([]), st.integers(0, 12)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTION, max_size=6))
def test_whatever_happens_the_state_has_read_the_conversation(
    byte_model: Model, monkeypatch: pytest.MonkeyPatch, actions: list[tuple[str, list[str], int]]
) -> None:
    with monkeypatch.context() as patch:
        script = Script(byte_model, patch)
        chat = byte_model.chat()
        for action, words, pieces in actions:
            before = chat.messages
            if action != "ask" and not before:
                continue
            script.will_answer(words)
            if action == "undo":
                chat.undo()
            else:
                reply = chat.retry() if action == "retry" else chat.ask("q→\n\nx")
                for _ in zip(range(pieces), reply, strict=False):
                    pass
                reply.close()
            text, pending = chat._point.text.encode(), chat._read(chat._point)[1]
            half = chat.state.tokens_seen + len(pending) - len(text)
            if half:  # cut inside a character whose start was read, so that it is no part of the text
                assert 0 < half < 4
                return
            assert text.endswith(pending)
            seen = text[: len(text) - len(pending)]
            if seen:
                assert np.allclose(chat.state.data, byte_model.forward(list(seen))[1].data, atol=1e-4)
            written = "".join(m.content for m in chat.messages if m.role == "assistant")
            assert "User:" not in written or "\n\nUser:" not in text.decode().replace("\n\nUser: q", "")


@pytest.mark.parametrize(
    ("data", "whole"),
    [(b"", b""), (b"a", b"a"), (b"a\xc3", b"a"), ("é".encode(), "é".encode()), (b"\xa9", b"\xa9"), (b"\xf0\x9f\x98", b"")],
)
def test_half_a_character_is_not_read(data: bytes, whole: bytes) -> None:
    assert conversation._whole_characters(data) == whole


def test_a_turn_costs_only_its_new_tokens(world_model: Model, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.will_answer(" Yes" * 50, " No")
    chat = world_model.chat()
    chat.ask("A long question, " * 100).read()
    fed = counted(world_model, monkeypatch)
    reply = chat.ask("And?")
    reply.read()
    new = len(world_model.tokenize("\n\nUser: And?\n\nAssistant:"))
    assert reply.prompt_tokens == new
    assert sum(fed) == new + len(world_model.tokenize(" No"))


def test_thoughts_are_told_from_the_answer(world_model: Model, script: Script) -> None:
    answer = [">", "\n", "Hm", ".", "\n", "</", "think", ">", "\n", "Yes", "."]
    script.will_answer(answer, answer)
    chat = world_model.chat(think="short")
    reply = chat.ask("Is it?")
    pieces = list(reply.pieces())
    assert "".join(piece.text for piece in pieces if piece.thinking).strip() == reply.thinking == "Hm."
    assert "".join(piece.text for piece in pieces if not piece.thinking) == reply.answer == "Yes."
    assert len(pieces) >= len(answer)
    assert chat.messages[-1].as_dict() == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert "".join(chat.ask("Is it?")) == "Yes."
    assert script.prompts[1] == "\n\nUser: Is it? (think a bit)\n\nAssistant: <think"
    turn = "User: Is it? (think a bit)\n\nAssistant: <think>\nHm.\n</think>\nYes."
    assert_state_has_read(world_model, chat.state, f"{turn}\n\n{turn}")


def test_the_system_prompt_begins_a_conversation(world_model: Model, script: Script) -> None:
    script.will_answer(" Ja", " Yes", " Yes")
    chat = world_model.chat(system="Speak German.")
    chat.ask("Yes?").read()
    chat.reset("Speak English.")
    assert chat.system == "Speak English."
    chat.ask("Yes?").read()
    chat.reset("")
    chat.ask("Yes?").read()
    assert script.prompts == [
        "System: Speak German.\n\nUser: Yes?\n\nAssistant:",
        "System: Speak English.\n\nUser: Yes?\n\nAssistant:",
        "User: Yes?\n\nAssistant:",
    ]
    chat.reset()
    assert chat.messages == ()
    with pytest.raises(InputError, match="no system prompt"):
        world_model.chat(format="qa").reset("x")
    with pytest.raises(InputError, match="twice"):
        world_model.chat([{"role": "system", "content": "a"}], system="b")


def test_messages_of_before(world_model: Model, script: Script) -> None:
    script.will_answer(" Hello")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Hello?"},
    ]
    chat = world_model.chat(messages)
    assert chat.reply().read() == "Hello"
    assert script.prompts == ["System: Be brief.\n\nUser: hi\n\nAssistant: Hi.\n\nUser: Hello?\n\nAssistant:"]
    with pytest.raises(InputError, match="no user's message"):
        chat.reply()
    assert chat.undo() == "Hello?"
    assert chat.undo() == "hi"
    chat.ask("So?").read()
    assert script.prompts[1] == "System: Be brief.\n\nUser: So?\n\nAssistant:"


def test_undo_and_retry_go_back_to_the_same_state(world_model: Model, script: Script) -> None:
    script.will_answer(" One", " Two", " Three", " Four")
    chat = world_model.chat()
    chat.ask("1").read()
    before = chat.state
    chat.ask("2").read()
    assert chat.retry().read() == "Three"
    assert_state_has_read(world_model, chat.state, "User: 1\n\nAssistant: One\n\nUser: 2\n\nAssistant: Three")
    assert pairs(chat)[-1] == ("assistant", "Three")
    assert chat.undo() == "2"
    assert np.array_equal(chat.state.data, before.data)
    assert chat.undo() == "1"
    with pytest.raises(InputError, match="nothing was said"):
        chat.undo()
    with pytest.raises(InputError, match="nothing was said"):
        chat.retry()
    chat.ask("4").read()
    assert_state_has_read(world_model, chat.state, "User: 4\n\nAssistant: Four")


def test_checkpoints_that_were_let_go_are_made_again(
    world_model: Model, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "CHECKPOINTS", 2)
    script.will_answer(*[f" A{n}" for n in range(5)])
    chat = world_model.chat()
    for n in range(5):
        chat.ask(f"Q{n}").read()
    assert sum(turn.point.state is not None for turn in chat._turns) == 2
    for _ in range(4):
        chat.undo()
    script.will_answer(" B")
    chat.ask("again").read()
    assert_state_has_read(world_model, chat.state, "User: Q0\n\nAssistant: A0\n\nUser: again\n\nAssistant: B")


def test_a_reply_that_is_cancelled_stays_as_far_as_it_came(world_model: Model, script: Script) -> None:
    script.will_answer([" one", " two", " three", " four"], " Yes")
    chat = world_model.chat()
    reply = chat.ask("Count")
    assert next(reply) + next(reply) == "one two"
    reply.cancel()
    assert list(reply) == []
    assert reply.finish_reason == "cancelled"
    assert pairs(chat) == [("user", "Count"), ("assistant", "one two")]
    chat.ask("Go on").read()
    assert_state_has_read(world_model, chat.state, "User: Count\n\nAssistant: one two\n\nUser: Go on\n\nAssistant: Yes")


def test_a_reply_that_is_cancelled_before_its_first_token_takes_the_question_back(world_model: Model, script: Script) -> None:
    script.will_answer(" one", " two")
    chat = world_model.chat()
    chat.ask("A").read()
    seen = chat.state.tokens_seen
    reply = chat.ask("B")
    reply.cancel()
    assert reply.read() == ""
    assert pairs(chat) == [("user", "A"), ("assistant", "one")]
    assert chat.state.tokens_seen == seen
    asked = world_model.chat([{"role": "user", "content": "A"}])
    with asked.reply():
        pass
    assert pairs(asked) == [("user", "A")]


def test_asking_ends_a_reply_that_nobody_reads(world_model: Model, script: Script) -> None:
    script.will_answer([" one", " two"], " three")
    chat = world_model.chat()
    first = chat.ask("A")
    next(first)
    chat.ask("B").read()
    assert first.finish_reason == "cancelled"
    assert [content for _, content in pairs(chat)] == ["A", "one", "B", "three"]


def test_after_an_interrupt_the_conversation_goes_on_from_before_it(
    world_model: Model, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.will_answer(" one", [" two", " three"], " four")
    chat = world_model.chat()
    chat.ask("A").read()
    reply = chat.ask("B")
    next(reply)
    run = world_model._executable.run

    def interrupted(batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world_model._executable, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(reply)
    monkeypatch.setattr(world_model._executable, "run", run)
    assert pairs(chat) == [("user", "A"), ("assistant", "one")]
    chat.ask("C").read()
    assert_state_has_read(world_model, chat.state, "User: A\n\nAssistant: one\n\nUser: C\n\nAssistant: four")


def test_a_conversation_starts_from_a_state(world_model: Model, script: Script) -> None:
    _, state = world_model.forward(world_model.tokenize("A document."))
    seen = state.tokens_seen
    script.will_answer(" Yes", " No")
    chat = world_model.chat(state=state)
    chat.ask("Is it?").read()
    text = "A document.\n\nUser: Is it?\n\nAssistant: Yes"
    assert_state_has_read(world_model, chat.state, text)
    chat.reset()
    chat.ask("Is it?").read()
    assert_state_has_read(world_model, chat.state, text.replace("Yes", "No"))
    assert state.tokens_seen == seen
    tuned = world_model.new_state()
    tuned.data[:] += 0.01
    chat = world_model.chat(state=tuned)
    chat.ask("Is it?").read()
    assert script.prompts[-1] == "User: Is it?\n\nAssistant:"


def test_a_saved_conversation_goes_on(world_model: Model, script: Script, tmp_path: Path) -> None:
    script.will_answer([">", "\n", "One"], [">", "\n", "Two", " \n\n", "User", ":"], " Three")
    chat = world_model.chat(system="Count.", think="fast")
    chat.ask("1").read()
    chat.ask("2").read()
    chat.save(tmp_path / "a.chat")
    other = world_model.chat(format="qa")
    other.load(tmp_path / "a.chat")
    assert other.messages == chat.messages
    assert (other.format.name, other.think, other.system) == ("g1", "fast", "Count.")
    assert np.array_equal(other.state.data, chat.state.data)
    other.ask("3").read()
    assert script.prompts[-1] == " \n\nUser: 3\n\nAssistant: <think>\n</think"
    for _ in range(2):
        other.undo()
    other.ask("4").read()
    assert script.prompts[-1].startswith("System: Count.\n\nUser: 1\n\nAssistant: One\n\nUser: 4")
    # It is a state file as well.
    assert world_model.load_state(tmp_path / "a.chat").tokens_seen == chat.state.tokens_seen


def test_a_conversation_from_an_unknown_state_goes_back_no_further(world_model: Model, script: Script, tmp_path: Path) -> None:
    _, state = world_model.forward(world_model.tokenize("A document."))
    chat = world_model.chat(state=state)
    chat.ask("1").read()
    chat.save(tmp_path / "a.chat")
    other = world_model.chat()
    other.load(tmp_path / "a.chat")
    for back in (other.undo, other.reset):
        with pytest.raises(InputError, match="goes back no further"):
            back()
    assert pairs(other) == pairs(chat)
    other = world_model.chat(state=state)
    other.load(tmp_path / "a.chat")
    assert other.undo() == "1"


def test_what_cannot_be_loaded_or_saved_is_one_sentence(
    world_model: Model, script: Script, tmp_path: Path, tiny_pth: object
) -> None:
    chat = world_model.chat()
    chat.ask("1").read()
    world_model.new_state().save(tmp_path / "plain.state")
    for path, sentence in ((tmp_path / "plain.state", "without a conversation"), (tmp_path / "none", "no such file")):
        with pytest.raises(StateError, match=sentence):
            chat.load(path)
    for content in ("{}", "[", '{"format": 1}', '{"messages": [1]}'):
        world_model.new_state().save(tmp_path / "bad.chat", {"chat": content})
        with pytest.raises(StateError, match="damaged"):
            chat.load(tmp_path / "bad.chat")
    other = world_model.new_state()
    other.fingerprint = "rwkv7-1x1-0"
    other.save(tmp_path / "other.chat", {"chat": "{}"})
    with pytest.raises(StateError, match="rwkv7-1x1-0"):
        chat.load(tmp_path / "other.chat")
    with pytest.raises(StateError, match="cannot be saved"):
        chat.save(tmp_path / "no" / "such.chat")
    assert len(pairs(chat)) == 2


def test_a_conversation_longer_than_a_file_takes_is_refused(world_model: Model, script: Script, tmp_path: Path) -> None:
    chat = world_model.chat([{"role": "user", "content": "x, " * 300_000}, {"role": "assistant", "content": "y"}])
    with pytest.raises(StateError, match="too long"):
        chat.save(tmp_path / "a.chat")


def test_a_mistake_leaves_the_conversation_as_it_is(world_model: Model) -> None:
    chat = world_model.chat(max_tokens=4)
    for mistake, sentence in (
        (lambda: chat.ask(" \n"), "empty"),
        (lambda: chat.ask(b"x"), "must be text"),  # type: ignore[arg-type]
        (lambda: setattr(chat, "max_tokens", 0), "max_tokens"),
        (lambda: world_model.chat(max_tokens=True), "max_tokens"),
        (lambda: world_model.chat(format="qa", system="x"), "no system prompt"),
        (lambda: world_model.chat(format="qa").reset("x"), "no system prompt"),
        (lambda: setattr(chat, "think", "x"), "think must be one of off, on, fast"),
        (lambda: world_model.chat(format="nosuch"), "no chat format 'nosuch'"),
        (lambda: world_model.chat(format="template"), "has no chat template"),
        (lambda: world_model.chat(system=" "), "system must be a text"),
        (lambda: world_model.chat(stop=""), "stop"),
    ):
        with pytest.raises(InputError, match=sentence):
            mistake()
    assert chat.messages == ()


def test_a_seed_makes_a_conversation_repeatable_and_a_retry_different(world_model: Model) -> None:
    def talk() -> tuple[list[str], str]:
        chat = world_model.chat(sampling=Sampling(seed=7, top_p=1), max_tokens=12)
        return [chat.ask("a").read(), chat.ask("b").read()], chat.retry().read()

    answers, again = talk()
    assert talk() == (answers, again)
    assert again != answers[1]


@pytest.mark.parametrize("backend_name", ["numpy", "cpu"])
def test_conversations_of_one_model_in_threads_do_not_disturb_each_other(backend_name: str, world_path: Path) -> None:
    need_backend(backend_name)

    def talk(model: Model, n: int) -> list[str]:
        chat = model.chat(sampling=Sampling(seed=n, top_p=0.9), max_tokens=8)
        return [chat.ask(f"{n} {turn}").read() for turn in range(3)]

    with Model(world_path, backend_name) as model:
        alone = [talk(model, n) for n in range(3)]
        found: list[list[str]] = [[]] * 3
        threads = [threading.Thread(target=lambda n=n: found.__setitem__(n, talk(model, n))) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == alone


def test_more_stop_strings(world_model: Model, script: Script) -> None:
    script.will_answer([" a", " b", " c"])
    assert world_model.chat(stop=" b").ask("x").read() == "a"


def test_a_reply_is_an_iterator_of_the_answer(world_model: Model, script: Script) -> None:
    script.will_answer([" a", " b"])
    reply = world_model.chat().ask("x")
    assert isinstance(reply, Reply)
    assert iter(reply) is reply
    assert "".join(reply) == "a b"
    assert len(reply.tokens) == 2
