"""Where tensors lie: freed memory is kept on a CPU, and what a step draws goes to another device in one copy."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory():
    """Have this process keep the memory it frees, for its next tensor: on Linux, up to twice the speed on a CPU.

    A layer's output is some megabytes. glibc gives so much back to the system as soon as it is freed, and the system
    clears every 4 KB of it again when the next layer asks. Here it is told not to, up to 1 GB a tensor and 2 GB in
    all, in place of its defaults ``M_MMAP_THRESHOLD`` and ``M_TRIM_THRESHOLD``; and that threads which begin later
    get no arena of their own, for such a one keeps nothing above 64 MB. Results are the same. Without glibc (macOS,
    Windows, Alpine), or with one older than 2.35, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(M_MMAP_THRESHOLD, 2**30):  # glibc before 2.35 refuses, and adapts its own threshold up to 32 MB
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)


def send(tensors, device):
    """Bring tensors from the CPU to a device, in one copy that the CPU does not wait for.

    Parameters
    ----------
    tensors : sequence of Tensor
        On the CPU, of any shapes and types.
    device : torch.device

    Returns
    -------
    list of Tensor
        The same values there, parts of one buffer. On a CPU the tensors themselves.

    Examples
    --------
    >>> numbers, rows = send([torch.ones(2, 3), torch.arange(2)], torch.device("meta"))
    >>> numbers.shape, rows.dtype, rows.device
    (torch.Size([2, 3]), torch.int64, device(type='meta'))
    """
    if device.type == "cpu":
        return list(tensors)
    # Every type begins at a multiple of 8 bytes.
    sizes = [size for t in tensors for size in (t.nbytes, -t.nbytes % 8)]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for place, t in zip(buffer.split(sizes)[::2], tensors, strict=True):
        place.view(t.dtype).view(t.shape).copy_(t)
    parts = buffer.to(device, non_blocking=True).split(sizes)[::2]
    return [part.view(t.dtype).view(t.shape) for part, t in zip(parts, tensors, strict=True)]
