"""Why an attempt ended before its cell was done: causes, how they are recognized, what they mean.

The table fault × outcome is docs/faults.md.
"""

import errno

PREEMPTED = "preempted"  # a job of higher rank took the node
TIME = "time limit"
NODE = "node failure"
MEMORY = "out of memory"  # of the host
GPU_MEMORY = "out of GPU memory"
KILLED = "killed"  # SIGKILL from outside
CANCELLED = "cancelled"
DISK = "disk full"
ERROR = "error"  # an exception
REQUEUED = "requeued"  # SLURM began the job anew and does not say why
LOST = "lost"  # it ended without a word

DISK_EXIT = 74  # exit code (EX_IOERR): a full disk has no room for a record that says so

# What SLURM calls it; other states are told apart by the exit code.
_STATES = {
    "TIMEOUT": TIME,
    "DEADLINE": TIME,
    "NODE_FAIL": NODE,
    "BOOT_FAIL": NODE,
    "OUT_OF_MEMORY": MEMORY,
    "PREEMPTED": PREEMPTED,
    "CANCELLED": CANCELLED,
    "REQUEUED": REQUEUED,
}
_TEXT = {
    TIME: "it reached its time limit before it could be queued again",
    NODE: "its node failed",
    MEMORY: "it took more host memory than it had asked for; the next attempt asks for twice as "
    "much, or set cluster.memory_gb",
    PREEMPTED: "a job of higher priority took its node",
    CANCELLED: "it was cancelled",
    GPU_MEMORY: "a batch did not fit into the GPU's memory, in the smallest parts either: take a "
    "GPU with more (cluster.gpu_type), or for zero-shot tasks a smaller evaluation.batch_size",
    KILLED: "its process was killed (SIGKILL)",
    DISK: "the disk of the outputs is full, or a quota is reached: make room",
    REQUEUED: "SLURM started the job again",
    LOST: "it ended without a word",
}


def of_exception(error: BaseException) -> str:
    """The cause that an exception stands for."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK
    # safetensors reports the system's error as text
    if "os error 28" in str(error) or "No space left on device" in str(error):
        return DISK
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch may not be there
        return GPU_MEMORY
    return MEMORY if isinstance(error, MemoryError) else ERROR


def of_job(state: str, exit_code: int = 0) -> str:
    """The cause that SLURM's word for an ended job, and its exit code, stand for."""
    if state in _STATES:
        return _STATES[state]
    if exit_code == DISK_EXIT:
        return DISK
    return KILLED if exit_code in (9, 137) else LOST


def text(fault: str) -> str:
    """A cause as a sentence's end."""
    return _TEXT.get(fault, fault)
