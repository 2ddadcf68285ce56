"""Programs a model wrote cannot get out of the sandbox, use more than their share, or be counted as right when they are not."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from puna.core.errors import InputError
from puna.verify.box import syscalls
from puna.verify.sandbox import Job, Limits, Sandbox, choose, languages, selftest, tiers, worker
from puna.verify.sandbox.attacks import Attacked
from puna.verify.sandbox.worker import children_of

pytestmark = pytest.mark.skipif(not syscalls.supported(), reason="the sandbox needs Linux on x86_64 or aarch64")


@pytest.fixture(scope="module")
def walled() -> str:
    """A tier that can be had here, not tested further."""
    for tier in tiers.WALLED:
        try:
            Sandbox(workers=1, tier=tier).close()
            return tier
        except InputError:
            continue
    pytest.skip("neither bubblewrap nor namespaces can be had here")


@pytest.fixture(scope="module")
def sandbox(walled):
    with Sandbox(Limits(seconds=20), workers=1, tier=walled) as box:
        yield box


@pytest.mark.cores
@pytest.mark.parametrize(("tests", "least"), [((), 100), (("assert f(1) == 2",), 50)])
def test_a_hundred_small_programs_a_second_on_two_cores(walled, tests, least):
    """Counted in processor time of all processes together, the best of some batches, so that a busy machine changes little."""
    with Sandbox(workers=2, tier=walled) as box:
        jobs = [Job("def f(x):\n    return x + 1", tests)] * 30
        box.map_python(jobs[:5])
        used = []
        for _ in range(4):
            before = sum(map(processor_seconds, box.boxes())) + time.process_time()
            assert [outcome.status for outcome in box.map_python(jobs)] == ["passed"] * len(jobs)
            used.append(sum(map(processor_seconds, box.boxes())) + time.process_time() - before)
    assert 2 * len(jobs) / min(used) >= least, f"{1000 * min(used) / len(jobs):.1f} ms of processor time a program"


def processor_seconds(pid: int) -> float:
    """Of a process, those it has waited for, and all below it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(processor_seconds, children_of(pid)))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('hi')", "passed"),
        ("1 / 0", "error"),
        ("def f(:", "error"),
        ("import sys; sys.exit(3)", "error"),
        ("x = bytearray(8 << 30)", "memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed"),
        ("print('x' * (3 << 20))", "output"),
    ],
)
def test_how_a_program_ended(sandbox, code, status):
    assert sandbox.run_python(code).status == status


def test_what_a_program_wrote_and_how_it_ended(sandbox):
    code = "import sys\nprint(sys.stdin.read()[::-1], flush=True)\nsys.stdout.buffer.write(b'\\xff')\nraise SystemExit('bye')"
    outcome = sandbox.run_python(code, stdin="äbc")
    assert (outcome.stdout, outcome.stderr, outcome.returncode) == ("cbä\n�", "bye\n", 1)
    outcome = sandbox.run_python("import threading, time, atexit\natexit.register(print, 'last')\n"
                                 "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()")  # fmt: skip
    assert outcome.stdout == "thread\nlast\n" and outcome.passed
    error = sandbox.run_python("def f():\n    return [][1]\nf()").stderr
    assert error.splitlines()[1] == '  File "main.py", line 3, in <module>' and "return [][1]" in error


def test_files_are_given_and_gone_with_the_program(sandbox):
    outcome = sandbox.run_python("print(open('data/a.txt').read()); open('b', 'w').close()", files={"data/a.txt": b"given"})
    assert outcome.stdout == "given\n"
    assert sandbox.run_python("import os; print(os.listdir('.'))").stdout == "[]\n"


def test_processes_of_a_program_can_work_together(sandbox):
    code = "import multiprocessing\nwith multiprocessing.Pool(2) as pool:\n    print(sum(pool.map(abs, range(-4, 0))))"
    outcome = sandbox.run_python(code)
    assert outcome.stdout == "10\n", outcome


def test_time_is_up(sandbox):
    outcome = sandbox.run_job(Job("print('begun', flush=True)\nwhile True: pass", limits=Limits(seconds=0.4)))
    assert (outcome.status, outcome.stdout, outcome.returncode) == ("timeout", "begun\n", None)
    assert 0.4 <= outcome.seconds < 6
    assert sandbox.run_python("print(1)").stdout == "1\n"


def test_a_lost_box_is_replaced(walled):
    with Sandbox(workers=1, tier=walled) as box:
        (before,) = box.boxes()
        (inside,) = children_of(before)
        os.kill(inside, 9)
        os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
        assert box.run_python("print(1)").status == "killed"
        assert box.run_python("print(1)").stdout == "1\n"
        assert box.boxes() != [before]


PROGRAMS = {
    "python": "print(sum(map(int, input().split())))",
    "bash": "read a b; echo $((a + b))",
    "perl": 'my ($a, $b) = split / /, <STDIN>; print $a + $b, "\\n";',
    "ruby": "puts gets.split.map(&:to_i).sum",
    "javascript": "console.log(require('fs').readFileSync(0, 'utf8').trim().split(' ').reduce((a, b) => +a + +b))",
    "c": '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }',
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }",
    "java": "public class Main { public static void main(String[] a) { var s = new java.util.Scanner(System.in);"
    "System.out.println(s.nextInt() + s.nextInt()); } }",
    "rust": "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap();"
    'println!("{}", s.split_whitespace().map(|x| x.parse::<i32>().unwrap()).sum::<i32>()); }',
}
HEAVY = {"cpp", "java", "rust"}


@pytest.mark.parametrize("language", [pytest.param(x, marks=pytest.mark.slow) if x in HEAVY else x for x in PROGRAMS])
def test_whole_programs_in_the_languages_that_are_installed(sandbox, language):
    if language not in languages():
        pytest.skip(f"{language} is not installed")
    outcome = sandbox.run(language, PROGRAMS[language], tests=[("1 2", "3"), ("20 22", "43")])
    assert [result.passed for result in outcome.results] == [True, False] and outcome.status == "failed"
    assert "42" in outcome.results[1].error


def test_a_program_that_does_not_compile_says_why(sandbox):
    if "c" not in languages():
        pytest.skip("no C compiler")
    outcome = sandbox.run("c", "int main() { return x; }")
    assert outcome.status == "error" and "undeclared" in outcome.stderr


def test_unknown_languages_and_tests_of_the_wrong_kind_are_refused(sandbox):
    with pytest.raises(InputError, match="no compiler or interpreter for 'cobol'"):
        sandbox.run("cobol", "")
    with pytest.raises(InputError, match="own directory"):
        sandbox.run_python("", files={"../a": b""})
    with pytest.raises(InputError, match="pairs"):
        sandbox.run("bash", "echo 1", tests=["assert f(1)"])


def test_the_tier_is_the_strongest_that_stops_everything(monkeypatch):
    broken: list[str] = []

    def tested(tier: str) -> selftest.Tested:
        return selftest.Tested(tier, (Attacked("files", tier not in broken), Attacked("memory", True)))

    monkeypatch.setattr(selftest, "tested", tested)
    assert choose() == "bwrap"
    broken.append("bwrap")
    assert choose() == "namespaces"
    broken.append("namespaces")
    with pytest.raises(InputError, match="cannot be run safely") as refused:
        choose()
    assert "namespaces: does not stop files" in refused.value.where and "allow_unsandboxed" in refused.value.fix
    assert choose(allow_unsandboxed=True) == "rlimits"
    with pytest.raises(InputError, match="no walls"):
        Sandbox(tier="rlimits")
    with pytest.raises(InputError, match="no sandbox of tier 'docker'"):
        Sandbox(tier="docker")


def test_what_is_said_of_the_tiers(monkeypatch):
    honest, stopped, through = Attacked("honest program", True), Attacked("files", True), Attacked("memory", False)
    found = {"bwrap": selftest.Tested("bwrap", why_not="bubblewrap is not installed")}
    found["namespaces"] = selftest.Tested("namespaces", (honest, stopped))
    monkeypatch.setattr(selftest, "tested", found.get)
    said = selftest.summary()
    assert said["tier"] == "namespaces" and said["bwrap"] == "not here (bubblewrap is not installed)"
    assert said["namespaces"] == "stops files" and said["rlimits"] == "bounds alone, only if allowed by name"
    found["namespaces"] = selftest.Tested("namespaces", (honest, stopped, through))
    assert selftest.summary()["namespaces"] == "stops files, but not memory" and selftest.summary()["tier"] == "none"


def test_what_the_attacks_found_is_kept(monkeypatch, tmp_path):
    runs = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(selftest, "attack", lambda tier: runs.append(tier) or [Attacked("files", tier == "bwrap", "x")])
    for tier in ("bwrap", "bwrap", "namespaces", "namespaces"):
        selftest.tested.cache_clear()
        assert selftest.tested(tier).holds == (tier == "bwrap")
    selftest.tested.cache_clear()
    assert runs == ["bwrap", "namespaces", "namespaces"]  # what failed may have been the moment's: it is tried again


def test_another_system_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="cannot be run safely on this system") as refused:
        Sandbox()
    assert "darwin" in refused.value.where and "Linux" in refused.value.fix


def test_no_descriptor_is_left_open_by_programs_or_lost_boxes(walled):
    with Sandbox(workers=1, tier=walled) as box:
        box.run_python("print(1)", tests=["assert True"], stdin="x" * 100_000)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for code in ("print(1)", "import os; os._exit(0)", "print('x' * (9 << 20))"):
            box.run_python(code, stdin="x" * 100_000)
            box.run_python(code, tests=["assert True"])
        (inside,) = children_of(*box.boxes())
        os.kill(inside, 9)
        os.waitid(os.P_PID, *box.boxes(), os.WEXITED | os.WNOWAIT)
        box.run_python("print(1)")
        assert box.run_python("print(1)").passed
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_interrupted_program_is_ended_and_its_box_replaced(walled, monkeypatch):
    with Sandbox(workers=1, tier=walled) as box:
        (before,) = box.boxes()
        monkeypatch.setattr(worker.Worker, "run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            box.run_python("while True: pass")
        monkeypatch.undo()
        assert box.boxes() != [before] and box.run_python("print(1)").passed
