"""Pieces of LLVM IR: vector code that no compiler finds by itself."""
