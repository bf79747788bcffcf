"""What backends for devices with memory of their own share.

    fusion.py      a Plan's ops fused: groups of them that are one kernel launch each
    packing.py     weights in the layouts that device kernels read
    allocation.py  where buffers and vectors lie
    kernels.py     a fusion as kernel source: calls of functions that each backend's kernel files define
    device_plan.py a Plan as device memory and steps
    states.py      which sequences' states lie on the device
    inputs.py      what the host tells the device about a run
    executable.py  runs: inputs in, steps, logits out
    self_test.py   whether a device computes what NumPy does
    driver.py      what a backend adds: memory and launches

    backend.py     what such a backend is to the registry
    found.py       the devices of a machine, and which is meant
    opened.py      devices that are open
    source.py      a kernel's text, from the backend's files
    failures.py    what went wrong, as one sentence
"""
