"""Which prompt format a model was trained on.

1. The one that is asked for: a name of `FORMATS`, "template" (the file's own chat template), or a format of your own.
2. A chat template in the file that does not write "User:": a fine-tune to another format.
3. The model's name (file or directory, general.name and general.basename of a GGUF, _name_or_path in config.json):
   "raven": raven. A part like "g1", "g0a2", "g1c": g1; those of before g1c: g1-2025.
4. The vocabulary: the 20B one of Pile models: raven. Any other: world.
"""
import re
from pathlib import Path

from rwkv_edge.arch import ModelShape
from rwkv_edge.chat.formats import FORMATS
from rwkv_edge.chat.interface import Format
from rwkv_edge.chat.template import BUILT_IN, TemplateFormat, template_of
from rwkv_edge.errors import InputError
from rwkv_edge.weights import Weights

TEMPLATE = "template"
NAMES = ("general.name", "general.basename")
G_SERIES = re.compile(r"(?:^|[^a-z0-9])g(?P<generation>[0-9])(?P<data>[a-z]?)[0-9]?(?![a-z0-9])")
PILE_SIZES = range(50254, 50433)


def choose_format(weights: Weights, shape: ModelShape, wanted: str | Format | None = None) -> Format:
    """The rules above. Raises InputError for an unknown name; MissingExtraError where a template needs jinja2."""
    if wanted is not None and not isinstance(wanted, str):
        return wanted
    if wanted in FORMATS:
        return FORMATS[wanted]
    if wanted not in (None, TEMPLATE):
        raise InputError(f"no chat format {wanted!r:.40}: expected {', '.join(FORMATS)} or {TEMPLATE}")
    template = template_of(weights)
    if wanted == TEMPLATE and template is None:
        raise InputError(f"{weights.path}: has no chat template; choose one of {', '.join(FORMATS)}")
    if template in BUILT_IN and wanted == TEMPLATE:
        return FORMATS[BUILT_IN[template]]
    if template is not None and template not in BUILT_IN and (wanted == TEMPLATE or "User:" not in template):
        return TemplateFormat(template)
    return FORMATS[guess(model_names(weights), shape.n_vocab)]


def guess(names: str, n_vocab: int) -> str:
    """Rules 3 and 4. names: in any case, joined by spaces."""
    names = names.lower()
    if "raven" in names:
        return "raven"
    if match := G_SERIES.search(names):
        return "g1" if (match["generation"], match["data"]) >= ("1", "c") else "g1-2025"
    return "raven" if n_vocab in PILE_SIZES else "world"


def model_names(weights: Weights) -> str:
    """What the model is called in its file and beside it, joined by spaces."""
    config = weights.metadata.get("config")
    config = config if isinstance(config, dict) else {}
    names = [Path(weights.path).name, *(weights.metadata.get(name) for name in NAMES), config.get("_name_or_path")]
    return " ".join(name for name in names if isinstance(name, str))
