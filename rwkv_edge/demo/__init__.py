"""The bundled model: a small byte-vocabulary RWKV-7 trained on Python source (README.md beside this file says how)."""
from pathlib import Path

MODEL_PATH = next(iter(sorted(Path(__file__).parent.glob("*.pth"))), Path(__file__).parent / "python.pth")
PROMPT = "class "
