"""Other processors, imitated: what a notebook says must hold on a reader's machine, too.

    pytest --nbval --processor avx2 book          # sse41, avx2, jitter1, jitter2 ...; today: the day's turn

An older instruction set is asked for by the environment. A jitter changes what float32 convolutions and linear layers
give by a millionth, as another processor's rounding does, and training lets the difference grow. It is a smooth
function of the value, so equal inputs still give equal outputs, and float64 is left alone; its number makes another
processor. IPython loads it at the start of a notebook's kernel, so unit tests meet the instruction sets alone.
"""

import datetime
import os
from pathlib import Path

INSTRUCTIONS = {
    "sse41": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
              "NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2",
             "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
}
TURNS = ("sse41", "jitter1", "avx2", "jitter2", "jitter3")
JITTER = """
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

def jittered(function):
    def inner(*args, **kwargs):
        out = function(*args, **kwargs)
        if out.dtype != torch.float32 or _get_current_dispatch_mode_stack():  # operations are being counted
            return out
        return out * (1 + 1e-6 * torch.sin(1e5 * out.detach() + {phase}))
    return inner

torch.nn.functional.conv2d = jittered(torch.nn.functional.conv2d)
torch.nn.functional.linear = jittered(torch.nn.functional.linear)
"""


def environment(name, folder):
    """The variables that make a new process compute as on another processor.

    Parameters
    ----------
    name : str
        "own", "sse41", "avx2", "jitter" with a number, or "today": each in turn, one a day.
    folder : path
        Where a jitter's start-up file is written, and what is compiled for an instruction set.
    """
    if name == "today":
        name = TURNS[datetime.date.today().toordinal() % len(TURNS)]
    if name == "own":
        return {}
    if name in INSTRUCTIONS:  # torch.compile's cache does not tell instruction sets apart
        return {**INSTRUCTIONS[name], "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / name)}
    if not (name.startswith("jitter") and name[6:].isdigit()):
        raise ValueError(f"processor must be own, today, sse41, avx2 or jitter with a number; got {name!r}")
    startup = Path(folder) / name / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    own = startup / f"{os.getpid()}.tmp"  # several processes write the same file
    own.write_text(JITTER.format(phase=float(name[6:])))
    own.replace(startup / "00-jitter.py")
    return {"IPYTHONDIR": str(startup.parents[1])}
