"""Runs a stranger's Python code under the kernel's limits: a script of its own (`python -IS confine.py`), of the standard library alone.

It reads one line of JSON: `code` and `then` (run one after the other in one namespace), `call` (instead of `then`: arguments of the
function `reward`), `seconds`, `bytes`, `token`, `confined`. It writes READY, and then JSON with the token, which the code isn't given: code
that ends the process early, or writes a result of its own, hasn't passed. (Code that looks for the token in the interpreter's own frames
finds it: what it may do to the machine is bounded, what it may claim is not proof against an author who knows this file.)

Before the code runs, the kernel bars it from what it doesn't need: Landlock from all files but Python's own and its folder, seccomp from
sockets, from starting or signalling processes and from other programs, rlimits from more memory, time, or larger files.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import sysconfig

READY = b"\n"  # is written just before the code runs, whose time begins then
EXIT_UNCONFINED = 97  # the kernel can't do it
# What the code may not call, by number on each architecture: socket, socketpair, connect, clone, clone3, fork, vfork, execve, execveat,
# kill, tkill, tgkill, ptrace, process_vm_readv, process_vm_writev, io_uring_setup, bpf, mount, unshare, setns, pidfd_open,
# pidfd_send_signal, pidfd_getfd, shmget, msgget, semget, keyctl, add_key, request_key.
X86_64 = (
    *(41, 53, 42, 56, 435, 57, 58, 59, 322, 62, 200, 234, 101, 310, 311),
    *(425, 321, 165, 272, 308, 434, 424, 438, 29, 68, 64, 250, 248, 249),
)
AARCH64 = (
    *(198, 199, 203, 220, 435, 221, 281, 129, 130, 131, 117, 270, 271, 425),
    *(280, 40, 97, 268, 434, 424, 438, 194, 186, 190, 219, 217, 218),
)
BARRED = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}
ERRNO_EPERM, ALLOW, KILL = 0x00050001, 0x7FFF0000, 0x80000000
FILE = 16 << 20  # bytes of a file in its folder
READ, READ_AND_LIST = 1 << 2, (1 << 2) | (1 << 3)
libc = ctypes.CDLL(None, use_errno=True)


def limit(seconds: float, most: int) -> None:
    """Bounds time, memory, files and core dumps of this process."""
    whole = int(seconds) + 1
    for what, value in (("CPU", whole), ("AS", most), ("FSIZE", min(most, FILE)), ("NOFILE", 32), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (value, value))


def bar_files(own: str) -> bool:
    """Has Landlock refuse all files but Python's own, to read, and those below `own`; False where the kernel has no Landlock."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = (1 << (13 if version == 1 else 14 if version == 2 else 15)) - 1
    rules = struct.pack("Q", handled)
    ruleset = libc.syscall(444, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    paths = sysconfig.get_paths()
    readable = {paths["stdlib"], paths["platstdlib"], sysconfig.get_config_var("LIBDIR") or "/usr/lib", "/usr/lib", "/lib", "/lib64"}
    allowed = [(path, READ_AND_LIST) for path in readable if os.path.isdir(path)] + [(own, handled & ~1)]
    allowed += [(path, READ) for path in ("/dev/null", "/dev/urandom", "/etc/ld.so.cache") if os.path.exists(path)]
    for path, access in allowed:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if libc.syscall(445, ruleset, 1, struct.pack("=Qi", access, place), 0):
            return False
        os.close(place)
    done = libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return done


def bar_calls() -> bool:
    """Has seccomp refuse the system calls of BARRED; False where it can't."""
    if platform.machine() not in BARRED:
        return False
    architecture, barred = BARRED[platform.machine()]
    count = len(barred)
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, KILL), (0x20, 0, 0, 0)]
    program += [(0x35, count + 1, 0, 0x40000000)]  # x32's numbers, another spelling of the same calls
    program += [(0x15, count - index, 0, number) for index, number in enumerate(barred)]
    program += [(0x06, 0, 0, ALLOW), (0x06, 0, 0, ERRNO_EPERM)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HP", len(program), ctypes.addressof(buffer))
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0


def outcome(task: dict) -> dict:
    """What came of the code: `{"value": ...}`, or `{"problem": ...}` in words."""
    space: dict = {"__name__": "answer"}
    try:
        exec(compile(task["code"], "<answer>", "exec"), space)
        if "call" not in task:
            exec(compile(task["then"], "<tests>", "exec"), space)
            return {"value": 1.0}
        value = space["reward"](*task["call"])
        return {"value": float(value)} if isinstance(value, int | float) else {"problem": f"returned a {type(value).__name__}"}
    except MemoryError:
        return {"problem": "ran out of memory"}
    except BaseException as error:
        return {"problem": f"raised {type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Confines itself, runs the code, and writes what came of it."""
    task = json.loads(sys.stdin.readline())
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    if not (bar_files(os.getcwd()) and bar_calls()) and task["confined"]:
        os._exit(EXIT_UNCONFINED)
    limit(task["seconds"], task["bytes"])
    os.write(report, READY)
    said = json.dumps(outcome(task) | {"token": task["token"]})
    os.write(report, said.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
