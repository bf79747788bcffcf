"""What backends for devices with their own memory share: how a Plan becomes few kernels, weights for devices, states, self-test.

    stages.py      ops grouped into stages, one kernel launch each
    packing.py     weights in the layouts that device kernels read
    kernels.py     a stage as kernel source: calls of functions that each backend's kernel files define
    program.py     a Plan as memory and steps
    states.py      which sequences' states lie on the device
    executable.py  runs: inputs in, steps, logits out
    driver.py      what a backend adds: memory and launches
    self_test.py   whether a device computes what NumPy does
"""
