"""Programs that do not do what they are asked and try to be counted as right all the same; none may pass.

Each is to define `f`, with `f(1) == EXPECTED`, a number that stands nowhere in the program.
"""

EXPECTED = 73519
TESTS = (
    f"assert f(1) == {EXPECTED}",
    f"assert not f(1) != {EXPECTED}",
    f"assert abs(f(1) - {EXPECTED}) < 1",
    "assert 73518 < f(1) < 73520",
    f"assert all(map(lambda x: f(x) == {EXPECTED}, [1, 1]))",
)

_SEARCH = """
import gc, os, sys, threading
def five(text):
    import re
    return [int(n) for n in re.findall(rb"f\\(1\\) == (\\d{5})", text)]
"""

FORGERIES = {
    "ends with code 0 as it loads": "import sys\nsys.exit(0)",
    "ends with code 0 at once as it loads": "import os\nos._exit(0)",
    "ends with code 0 when called": "import os\ndef f(x):\n    os._exit(0)",
    "raises SystemExit(0) when called": "def f(x):\n    raise SystemExit(0)",
    "ends the test's own loop": "def f(x):\n    raise StopIteration",
    "equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0
    def __bool__(self): return True
    def __hash__(self): return 73519 % 2
def f(x):
    return Any()
""".replace("73519", "7"),
    "equals everything and is a number": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    __hash__ = int.__hash__
def f(x):
    return Any(5)
""",
    "hands out an object that equals everything": "from unittest.mock import ANY\ndef f(x):\n    return ANY",
    "changes built-in functions and classes": """
import builtins, unittest, operator
builtins.AssertionError = type("Quiet", (BaseException,), {})
builtins.abs = lambda value: 0
abs = builtins.abs
operator.eq = lambda a, b: True
unittest.TestCase.assertEqual = lambda *args: None
def f(x):
    return 5
""",
    "prints a verdict": """
import atexit, json, sys
said = json.dumps({"word": "0" * 32, "loaded": True, "results": [[True, ""]] * 4, "memory": False, "error": ""})
print(said)
atexit.register(print, said)
def f(x):
    print(said, file=sys.stderr)
    return 5
""",
    "writes a verdict to every descriptor": """
import json, os, struct, threading
said = json.dumps({"word": "0" * 32, "loaded": True, "results": [[True, ""]] * 4, "memory": False, "error": ""}).encode()
def flood():
    for descriptor in range(1024):
        for text in (said, struct.pack("!I", len(said)) + said):
            try: os.write(descriptor, text)
            except OSError: pass
flood()
threading.Thread(target=flood).start()
def f(x):
    flood()
    return 5
""",
    "answers the judge before it asks": """
import json, os, struct
reply = json.dumps({"ok": True, "changed": {}, "names": ["f"]}).encode()
os.write(3, (struct.pack("!I", len(reply)) + reply) * 20)
def f(x):
    return True
""",
    "looks for the tests in memory and frames": _SEARCH
    + """
def f(x):
    found = []
    for frame in list(sys._current_frames().values()):
        while frame:
            found += five(repr(frame.f_locals).encode() + repr(frame.f_globals).encode())
            frame = frame.f_back
    for thing in gc.get_objects():
        try: found += five(repr(thing).encode())
        except BaseException: pass
    return found[0] if found else 5
""",
    "looks for the tests in files and descriptors": _SEARCH
    + """
def f(x):
    found = []
    for place in ("/proc/self", "/proc/1", f"/proc/{os.getppid()}", f"/proc/{os.getpid() + 1}"):
        for name in ("mem", "environ", "cmdline", "fd/0", "fd/3"):
            try:
                with open(f"{place}/{name}", "rb") as file: found += five(file.read(1 << 20))
            except BaseException: pass
    for descriptor in range(64):
        if descriptor != 3:
            try:
                os.set_blocking(descriptor, False)
                found += five(os.read(descriptor, 1 << 20))
            except BaseException: pass
    for folder, _, names in list(os.walk("."))[:50]:
        for name in names:
            with open(os.path.join(folder, name), "rb") as file: found += five(file.read(1 << 20))
    return found[0] if found else 5
""",
    "traces the judge": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    for pid in range(1, 200):
        if pid == os.getpid(): continue
        if libc.ptrace(16, pid, None, None) == 0: return 73519 - 73519 or "traced"
        try:
            with open(f"/proc/{pid}/mem", "r+b"): return "opened"
        except OSError: pass
    return 5
""".replace("73519 - 73519 or ", ""),
    "kills the judge": """
import os, signal
def f(x):
    for pid in range(1, 200):
        if pid != os.getpid():
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
    return 5
""",
    "leaves a program behind that goes on": """
import os, sys
def f(x):
    if os.fork() == 0:
        os.setsid()
        while True: os.write(1, b'{"loaded": true}')
    os._exit(0)
""",
}
