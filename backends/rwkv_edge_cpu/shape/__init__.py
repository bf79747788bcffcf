"""How numbers lie in memory: records, activations as bytes, matrices by key. No compiler is needed to know it."""
