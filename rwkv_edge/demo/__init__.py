"""The bundled model: a small byte-vocabulary RWKV-7 trained on Python source (README.md beside this file says how)."""
from pathlib import Path

from rwkv_edge.text.sampling import Sampling

MODEL_PATH = Path(__file__).parent / "python-2.9m.pth"
PROMPT = 'def read_file(path):\n    """'
SAMPLING = Sampling(temperature=1.0, top_p=0.8, presence_penalty=0.0, frequency_penalty=0.0)  # what suits it best
