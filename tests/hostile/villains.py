"""Methods that attack the runner: what each does after its first law, and how its run may end."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("failing", ROOT / "tests" / "failing.py")
failing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(failing)

# What villains without our environment leave behind. Nobody else sleeps for so long, nor another pytest beside this one.
ASLEEP = f"sleep {10**7 + os.getpid()}"
_GRANDPARENT = "grandparent = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])\n"
_EVERY = "for fd in range(3, 200):\n    try:\n        os.write(fd, b'%s\\n')\n    except OSError:\n        pass"

# body, statuses that its run may have
VILLAINS = {
    "good": ("", {"ok"}),
    "bomb": (
        "def bomb(depth):\n    for _ in range(2):\n        if depth and os.fork() == 0:\n            bomb(depth - 1)\n"
        "            time.sleep(600)\n            os._exit(0)\nbomb(4)",
        {"ok"},
    ),
    "chain": (
        "if os.fork() == 0:\n    for _ in range(200):\n        if os.fork():\n            os._exit(0)\n"
        "    time.sleep(600)",
        {"ok"},
    ),
    "daemon": (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.closerange(0, 200)\n"
        "        time.sleep(600)\n    os._exit(0)",
        {"ok"},
    ),
    "session": (f"subprocess.Popen('{ASLEEP}'.split(), start_new_session=True, close_fds=False)", {"ok"}),
    "no_environment": (f"subprocess.Popen('{ASLEEP}'.split(), start_new_session=True, env={{}})", {"ok"}),
    "c_fork": ("import ctypes\nif ctypes.CDLL(None).fork() == 0:\n    time.sleep(600)\n    os._exit(0)", {"ok"}),
    "chatters": ("if os.fork() == 0:\n    while True:\n        os.write(1, b'still here\\n')\n        time.sleep(0.01)", {"ok"}),
    "stops_parent": ("os.kill(os.getppid(), signal.SIGSTOP)", {"ok"}),
    "stops_server": (_GRANDPARENT + "os.kill(grandparent, signal.SIGSTOP)", {"ok"}),
    "kills_parent": ("os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)", {"killed"}),
    "kills_group": ("os.killpg(0, signal.SIGKILL)", {"killed"}),
    "stops_group": ("os.killpg(0, signal.SIGSTOP)", {"timeout"}),
    "stops_itself": ("os.kill(os.getpid(), signal.SIGSTOP)", {"timeout"}),
    "changes_group": ("os.setpgid(0, os.getsid(0))\nwhile True:\n    pass", {"timeout"}),
    "leads": ("os.setsid()\nwhile True:\n    pass", {"timeout"}),
    "closes_all": ("os.closerange(0, 1000)", {"error"}),
    "garbage": (_EVERY % r"\xff\x00 garbage", {"error"}),
    "not_an_object": (_EVERY % "[1]", {"error"}),
    "forged": (_EVERY % '{"failed": "=cmd", "status": "bogus"}', {"error"}),
    "forged_clock": (_EVERY % '{"clock": "never"}', {"error"}),
    "endless_line": (
        "for fd in range(3, 200):\n    try:\n        for _ in range(200):\n            os.write(fd, b'x' * 65536)\n"
        "    except OSError:\n        pass",
        {"error"},
    ),
    "asks_only": ("for _ in range(100000):\n" + "".join(
        f"    {line}\n" for line in (_EVERY % '{"log": true}').replace("200", "20").splitlines()),
        {"error", "timeout"},
    ),
    "no_dumps": ("import json\njson.dumps = lambda *a, **k: 'x'", {"error"}),
    "dumps_sleeps": ("import json\njson.dumps = lambda *a, **k: time.sleep(600)", {"timeout"}),
    "os_exit": ("os._exit(0)", {"error"}),
    "becomes_true": ("os.execv('/bin/true', ['true'])", {"error"}),
    "becomes_sleep": ("os.execv('/bin/sleep', ['sleep', '600'])", {"timeout"}),
    "recursion": ("def deeper():\n    deeper()\ndeeper()", {"error"}),
    "overflow": (
        "sys.setrecursionlimit(10**9)\nnest = []\nfor _ in range(10**5):\n    nest = [nest]\nrepr(nest)", {"error", "oom", "timeout"}
    ),
    "floods": ("for _ in range(50):\n    os.write(1, b'x' * 1_000_000)", {"ok"}),
    "threads": (
        "import threading\nfor _ in range(20):\n    threading.Thread(target=time.sleep, args=(600,)).start()", {"ok"}
    ),
    "at_exit": ("import atexit\natexit.register(time.sleep, 600)", {"ok"}),
    "ignores_term": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)", {"timeout"}),
    "blocks_all": ("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True:\n    pass", {"timeout"}),
    "sleeps_in_del": (
        "class Sleeper:\n    def __del__(self):\n        while True:\n            try:\n                time.sleep(600)\n"
        "            except BaseException:\n                pass\nSleeper()",
        {"timeout"},
    ),
    "swallows": (
        "while True:\n    try:\n        time.sleep(600)\n    except BaseException:\n        pass", {"timeout"}
    ),
    "interrupts": ("raise KeyboardInterrupt", {"error"}),
    "odd_error": ("class Odd(BaseException):\n    pass\nraise Odd('odd')", {"error"}),
    "long_error": ("raise RuntimeError('x' * 10**7)", {"error"}),
    "no_files": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", {"error"}),
    "no_stdout": ("sys.stdout = sys.stderr = sys.__stdout__ = None\nos.umask(0o777)\nos.chdir('/')", {"ok", "error"}),
    "never_closed": (
        "try:\n    for k in range(50):\n        time.sleep(0.1)\n        yield half(0.11 + k / 1000)\n"
        "finally:\n    while True:\n        time.sleep(1)",
        {"timeout", "budget"},
    ),
    "workers": (
        "for _ in range(2):\n    if os.fork() == 0:\n        time.sleep(600)\n        os._exit(0)\ntime.sleep(600)", {"ok"}
    ),
    "led_workers": (
        f"subprocess.Popen('{ASLEEP}'.split(), start_new_session=True, close_fds=False)\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\ntime.sleep(600)",
        {"ok"},
    ),
    "slow": ("time.sleep(0.3)", {"ok"}),
}  # fmt: skip


def install(folder):
    """The villains as a distribution in this folder."""
    failing.BODIES = {name: body for name, (body, _) in VILLAINS.items()}
    return failing.install(folder)


# The command, with less patience: what is deaf is killed after a second.
COMMAND = [sys.executable, "-c", "from gwfbench.process import pool; pool.GRACE, pool.LATE = 1.0, (1.0, 0.1); from gwfbench.cli import main; main()"]  # fmt: skip


def command(plugins, out, *words, name="", launcher=COMMAND, **how):
    """A started command; `name` is in the environment of whatever it starts."""
    path = os.pathsep.join([str(plugins), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GWFBENCH_TEST_NAME": name}
    base = ["run", "--task", "tiny", "--no-controls", "--format", "json", "--out", str(out)]
    files = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | how
    return subprocess.Popen([*launcher, *base, *words], env=environment, **files)


def left(name):
    """Processes, zombies aside, that a command of this name has started, and long sleepers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip()
            ours = f"GWFBENCH_TEST_NAME={name}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if line and (ours or line == ASLEEP.encode()):
            found[int(folder.name)] = line[:60]
    return found
