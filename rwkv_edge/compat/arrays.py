"""NumPy arrays that answer to the tensor methods that scripts for `rwkv` call on logits and states."""
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Array(np.ndarray[Any, np.dtype[Any]]):
    """An ndarray that is on the CPU, detached and contiguous already, so most of these return it as it is."""

    def detach(self) -> "Array":
        return self

    def cpu(self) -> "Array":
        return self

    def contiguous(self) -> "Array":
        return np.ascontiguousarray(self).view(Array)

    def to(self, *args: Any, **kwargs: Any) -> "Array":
        """Whatever device or type is asked for: there is one device, and numbers are float32."""
        return self

    def float(self) -> "Array":
        return self.astype(np.float32, copy=False).view(Array)

    def clone(self) -> "Array":
        return self.copy()

    def numpy(self) -> NDArray[Any]:
        return self.view(np.ndarray)
