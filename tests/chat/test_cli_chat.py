"""`rwkv-edge chat`: piped, in a terminal with and without prompt_toolkit, and what ctrl-C does."""
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.chat import FORMATS
from rwkv_edge.chat.conversation import Chat
from rwkv_edge.cli import main
from rwkv_edge.cli.chat_commands import COMMANDS, run_command
from rwkv_edge.demo import MODEL_PATH
from tests.chat.scripted import Script

ENDLESS = ["--strategy", "numpy", "--logit-bias", "97=100", "-n", "1000000"]  # answers "aaaa..."


def piped(text: str, *arguments: str, model: Path = MODEL_PATH) -> tuple[str, str]:
    """Standard output and error."""
    command = [sys.executable, "-m", "rwkv_edge", "chat", str(model), "--strategy", "numpy", "--seed", "1", *arguments]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=120, check=True)
    return done.stdout.decode(), done.stderr.decode()


def test_each_piped_line_is_a_message() -> None:
    out, err = piped("import os\nimport sys\n", "-n", "12", "--stats")
    assert len(out) > 10
    assert err.count("cut at 12 tokens") == 2
    assert err.count("12 written]") == 2
    assert "27 tokens read" in err
    assert ">" not in err
    assert piped("import os\n\nimport sys\n", "-n", "12")[0] == out  # an empty line is no message


def test_commands_and_mistakes_in_a_pipe(tmp_path: Path) -> None:
    file = tmp_path / "talk.chat"
    lines = [
        "/nosuch", "/set top_p 2", "/set top_p x", "/set nosuch 1", "/set", "/undo", "/think on", "/load /no/such.chat",
        "/save", "/set max_tokens 0", "import os", "/retry", f"/save {file}", "/undo", "/undo", "/system Be brief.",
        "/quit", "import sys",
    ]  # fmt: skip
    _, err = piped("\n".join(lines), "-n", "5")
    told = [line for line in err.splitlines() if not line.startswith("[")]
    expected = [
        "no command '/nosuch'", "top_p must be a number from 0 to 1", "top_p must be a number, got 'x'", "no setting 'nosuch'",
        "max_tokens 5, temperature 1.0", "nothing was said yet", "think must be one of off", "no such file",
        "the name of a file is missing: /save FILE", "max_tokens must be an integer from 1", f"saved as {file}",
        "taken back: import os", "nothing was said yet", "the conversation begins anew",
    ]  # fmt: skip
    assert len(told) == len(expected), err
    for line, start in zip(told, expected, strict=True):
        assert start in line
    assert "Traceback" not in err
    assert err.count("cut at 5") == 2
    _, err = piped("/undo\n", "--load", str(file))
    assert "taken back: import os" in err


def test_a_message_of_several_lines_and_one_that_begins_with_a_slash() -> None:
    _, err = piped('"""import os\n\n  import sys\n"""\n/undo\n """/x"""\n/undo\n /etc\n/undo\n', "-n", "1")
    taken = err.split("taken back: ")
    assert taken[1].startswith("import os\n\n  import sys\n[")
    assert taken[2].startswith("/x\n")
    assert taken[3].startswith("/etc\n")


def test_every_setting_is_the_formats_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Chat] = []
    monkeypatch.setattr("rwkv_edge.cli.chat.converse", lambda chat, model, *, stats: seen.append(chat))
    model = [str(MODEL_PATH), "--strategy", "numpy"]
    assert main(["chat", *model]) == 0
    assert main(["chat", *model, "--format", "raven", "--top-p", "0.5", "--ban-token", "3", "--seed", "4"]) == 0
    assert seen[0].sampling == FORMATS["world"].sampling
    given, raven = seen[1].sampling, FORMATS["raven"].sampling
    assert (given.top_p, given.seed, given.banned_tokens) == (0.5, 4, frozenset([3]))
    assert (given.temperature, given.presence_penalty) == (raven.temperature, raven.presence_penalty)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such.pth"], "/no/such.pth"),
        (["MODEL", "--format", "nosuch"], "no chat format 'nosuch'"),
        (["MODEL", "--format", "template"], "has no chat template"),
        (["MODEL", "--think", "on"], "think must be one of off"),
        (["MODEL", "--format", "qa", "--system", "x"], "no system prompt"),
        (["MODEL", "--top-p", "2"], "top_p"),
        (["MODEL", "-n", "0"], "max_tokens"),
        (["MODEL", "--stop", ""], "stop"),
        (["MODEL", "--load", "/no/such.chat"], "/no/such.chat"),
        (["MODEL", "--state", "/no/such.state"], "/no/such.state"),
        (["MODEL", "--load", "MODEL"], "is a model"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_edge.cli.chat.converse", lambda *rest, **named: None)
    assert main(["chat", *(str(MODEL_PATH) if a == "MODEL" else a for a in arguments)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rwkv-edge: ")
    assert err.count("\n") == 1
    assert message in err


def test_thoughts_are_left_out_of_a_pipe(
    world_model: Model, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    from rwkv_edge.cli.chat import show

    script.will_answer([">", "\n", "Hm", "</", "think", ">", "\n", "Yes"])
    chat = world_model.chat(think="on")
    show(chat.ask("x"), chat, stats=False)
    assert capsys.readouterr().out == "Yes\n"


def test_help_lists_every_command(world_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(world_model.chat(), "/help") is None
    err = capsys.readouterr().err
    assert all(command.usage in err for command in COMMANDS.values())


PLAIN = "import sys; sys.modules['prompt_toolkit'] = None; from rwkv_edge.cli import main; sys.exit(main())"
TOOLKIT = "import sys; from rwkv_edge.cli import main; sys.exit(main())"


def terminal(code: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    pytest.importorskip("pty")
    from tests.chat.terminal import Terminal

    environment = {"RWKV_EDGE_CACHE": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
    return Terminal(code, ["chat", str(MODEL_PATH), *ENDLESS], environment)


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    screen = terminal(PLAIN, tmp_path)
    screen.wait_for("ctrl-D ends.")
    screen.wait_for("> ")
    for _ in range(2):
        screen.type("import os\n")
        screen.wait_for("aaaa")
        screen.type("\x03")
        screen.wait_for("[stopped]")
        screen.wait_for("> ")
    screen.type("half a message")
    screen.wait_for("half a message")
    time.sleep(0.3)  # readline sees a signal once it waits for the next key
    screen.type("\x03")
    screen.wait_for("(ctrl-D or /quit ends)")
    screen.wait_for("> ")
    screen.type("/undo\n")
    screen.wait_for("taken back: import os")
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.exit_code() == 0
    assert "Traceback" not in screen.screen


def test_ctrl_c_stops_the_reading_of_a_long_message(tmp_path: Path) -> None:
    screen = terminal(PLAIN, tmp_path)
    screen.wait_for("> ")
    screen.type('"""\n')
    for _ in range(60):
        screen.wait_for("... ")
        screen.type("x = 1; " * 100 + "\n")
    screen.wait_for("... ")
    screen.type('"""\n')
    time.sleep(0.3)  # reading 42 000 bytes takes seconds
    screen.type("\x03")
    screen.wait_for("the question is taken back")
    screen.wait_for("> ")
    screen.type("/quit\n")
    assert screen.exit_code() == 0


@pytest.mark.skipif(not importlib.util.find_spec("prompt_toolkit"), reason="needs prompt_toolkit")
def test_with_prompt_toolkit(tmp_path: Path) -> None:
    screen = terminal(TOOLKIT, tmp_path)
    screen.wait_for(">")
    screen.type("import os\x1b\r# second line\r")
    screen.wait_for("aaaa")
    screen.type("\x03")
    screen.wait_for("[stopped]")
    screen.wait_for(">")
    screen.type("half")
    screen.wait_for("half")
    screen.type("\x03")
    screen.wait_for("(ctrl-D or /quit ends)")
    screen.wait_for(">")
    screen.type("/undo\r")
    screen.wait_for("taken back: import os\r\n# second line")
    screen.wait_for(">")
    screen.type("\x04")
    assert screen.exit_code() == 0
    history = tmp_path / "chat_history"
    assert "# second line" in history.read_text()
    assert os.stat(history).st_mode & 0o077 == 0
