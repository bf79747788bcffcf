"""The engines that are compared: a module each with the same four names, loaded only in the process that runs it.

    TITLE: what tables call it.
    missing(path) -> str | None: why it cannot run this file here; asked without importing the library.
    load(): imports the library.
    Session(path, threads, options): the opened model, with
        prompt(tokens): start a new sequence with these;  step(token): feed one more, logits and all;
"""
from importlib import import_module
from types import ModuleType

ENGINES = ("ours", "llama", "official")


def engine(name: str) -> ModuleType:
    return import_module(f"bench.engines.{name}")
