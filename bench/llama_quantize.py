"""Quantized GGUFs by llama.cpp's own quantizer, which the llama-cpp-python wheel contains."""
import ctypes
from pathlib import Path


def quantize(source: Path, target: Path, type: str, *, pure: bool = False, threads: int = 2) -> None:
    """`type`: a llama.cpp file type such as "q4_0" or "q4_k_m". pure: every matrix in it, embedding and head too.

    Raises ValueError for an unknown type and where llama.cpp refuses.
    """
    import llama_cpp

    file_type = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type.upper()}", None)
    if file_type is None:
        raise ValueError(f"llama.cpp has no file type {type}")
    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def log(level: int, line: bytes, _: ctypes.c_void_p) -> None:
        lines.append(line.decode(errors="replace"))

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.pure = threads, file_type, pure
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))  # `log` dies with this call
    if code:
        target.unlink(missing_ok=True)
        raise ValueError(f"llama.cpp cannot make {target.name}: {''.join(lines[-3:]).strip()}")
