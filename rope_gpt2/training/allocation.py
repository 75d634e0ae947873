"""How this process gets its memory: on a CPU under Linux, what a training step frees is kept for the next one."""

import ctypes
import sys

# of glibc's malloc.h, see mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Have malloc keep large blocks that are freed, instead of giving them back to the system.

    Activations of a step are tens of megabytes each. By default glibc maps such blocks anew at every step, and the system clears
    them page by page on first touch: some 45,000 page faults a step of 32 × 256 tokens, 4 blocks of 256. The process then holds its
    peak until it ends. Elsewhere (another C library, another system) nothing is done.

    Returns:
        Whether it is so from now on.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
