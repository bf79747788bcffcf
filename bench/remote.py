"""The parent's side of bench/worker.py: engines in processes that stand still while another one is measured."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CAN_STOP = hasattr(signal, "SIGSTOP")


class Remote:
    """An engine with a model open. It is stopped (SIGSTOP) unless it works on a command, so that idle threads cannot spin."""

    def __init__(
        self, engine: str, path: Path, threads: int, options: dict[str, Any], environment: dict[str, str] | None = None
    ) -> None:
        self.engine, self.path, self.threads = engine, path, threads
        spec = {"engine": engine, "path": str(path.resolve()), "threads": threads, "options": options}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", json.dumps(spec)],
            cwd=ROOT, env=os.environ | (environment or {}), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.times: dict[str, float] = self._answer()

    def call(self, do: str, **arguments: Any) -> Any:
        self._signal("SIGCONT")
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = self.log.read().strip().splitlines()[-1:] or ["no message"]
            self.close()
            raise RuntimeError(f"{self.engine} with {self.path.name} ended: {last[0]}")
        self.answered = time.perf_counter()
        self._signal("SIGSTOP")
        return json.loads(line)

    def _signal(self, name: str) -> None:
        if CAN_STOP:
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
