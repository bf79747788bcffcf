"""Formats into formats: model files from model files, and matrices for a strategy.

    files.py          a model file from a model file: `quantize`
    mix.py            which format a tensor gets: what a type means
    entry.py          what will be written: tensors made of views of others
    encoding.py       entries to bytes, by a few threads
    to_gguf.py, gguf_format.py, vocabulary.py, to_safetensors.py    what the new file holds
    calibrate.py      which columns of a matrix matter, on a user's text
    replacing.py      a new file instead of an old one, whole or not at all
    conversions.py    matrices that are converted while a model opens
    model_cache.py    the results of that, kept
    lora.py           fine-tuned parts merged into a model's weights
"""
