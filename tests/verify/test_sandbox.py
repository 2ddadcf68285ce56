"""Programs a model wrote cannot get out of the sandbox, use more than their share, or be counted as right when they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from as_nobody import run_as_nobody

from puna.core.errors import InputError, RunError
from puna.verify.box import syscalls
from puna.verify.sandbox import Job, Limits, Sandbox, choose, languages, pool, selftest, tiers, worker
from puna.verify.sandbox.attacks import Attacked
from puna.verify.sandbox.languages import Language
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


def test_a_box_that_was_lost_between_programs_costs_none_of_them(walled):
    with Sandbox(workers=1, tier=walled) as box:
        before = lose_the_box(box)
        assert box.run_python("print(1)").stdout == "1\n"
        assert box.boxes() != [before]


def test_a_box_that_is_lost_with_its_program_is_replaced(walled, monkeypatch):
    with Sandbox(workers=1, tier=walled) as box:
        (before,) = box.boxes()
        monkeypatch.setattr(worker.Worker, "run", lambda *args: (_ for _ in ()).throw(worker.BoxError("gone")))
        assert box.run_python("print(1)").status == "killed"
        monkeypatch.undo()
        assert box.run_python("print(1)").stdout == "1\n" and box.boxes() != [before]


def test_a_box_that_cannot_be_built_again_lets_nobody_wait(walled, monkeypatch):
    def broken(*args: object) -> None:
        raise worker.BoxError("no more processes")

    with Sandbox(workers=1, tier=walled) as box:
        lose_the_box(box)
        monkeypatch.setattr(tiers, "open_worker", broken)
        with ThreadPoolExecutor(2) as threads:
            waiting = [threads.submit(box.run_python, "print(1)") for _ in range(2)]
            for one in waiting:
                with pytest.raises(RunError, match="cannot be built again"):
                    one.result(timeout=20)
        monkeypatch.undo()
        assert box.run_python("print(1)").passed


OUTLIVES = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from puna.core.errors import InputError
from puna.verify.sandbox import Sandbox
with ThreadPoolExecutor(1) as thread:
    try:
        box = thread.submit(Sandbox, workers=1, tier=sys.argv[1], allow_unsandboxed=True).result()
    except InputError:
        sys.exit("no such box here")
time.sleep(0.3)
with box:
    before = box.boxes()
    print(box.run_python("print(1)").status, box.boxes() == before)
"""


@pytest.mark.parametrize("tier", tiers.TIERS)
def test_a_box_outlives_the_thread_that_wanted_it(tier):
    """The kernel ends what dies with its parent when the thread that started it ends; root's boxes escape that."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    done = run_as_nobody(OUTLIVES, tier)
    if "no such box here" in done.stderr:
        pytest.skip(f"no box of tier {tier} for another user here")
    assert done.stdout.split() == ["passed", "True"], done.stderr


def lose_the_box(box: Sandbox) -> int:
    """Kill the idle box; its process id."""
    (pid,) = box.boxes()
    (inside,) = children_of(pid)
    os.kill(inside, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_page_tables_count_as_memory():
    """Reading addresses that were never written costs tables alone, and without a bound on addresses as many as one likes."""
    size = 1 << 32
    code = f"""
import mmap
area = mmap.mmap(-1, {size}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)
for place in range(0, {size}, 1 << 21):
    area[place]
print(flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        tables = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmPTE:")]
        held, least = worker.memory_of(process.pid), int(tables[0].split()[1]) * 1024
        own = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("RssAnon:")]
        process.communicate(b"\n")
    assert least > size // 1024 and held >= least + int(own[0].split()[1]) * 1024


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


def test_a_word_to_end_a_program_that_has_ended_is_no_order(sandbox):
    """A box took it for its next program, could not read it and was lost, and the next program with it."""
    box = sandbox._idle.get()
    box.control.send(b"end")  # as after a flood of output, where the program ends before the word comes
    sandbox._idle.put(box)
    before = set(sandbox.boxes())
    assert [sandbox.run_python("print(1)").status for _ in before] == ["passed"] * len(before) and set(sandbox.boxes()) == before


STAMPED = Language(
    "main.txt", ("./main",), ("/bin/sh", "-c", "cp main.txt main; chmod +x main; od -An -N8 -tx8 /dev/urandom >> stamp")
)


def test_a_program_is_compiled_once_for_all_its_inputs(sandbox, monkeypatch):
    monkeypatch.setattr(pool, "languages", lambda: {"stamped": STAMPED})
    code = "#!/bin/sh\ncat stamp; cat"
    first, second, other = sandbox.map_python(
        [Job(code, stdin="a", language="stamped"), Job(code, stdin="b", language="stamped"), Job(code + " ", language="stamped")]
    )
    (stamp, said), (again, too) = first.stdout.split(), second.stdout.split()
    assert (said, too) == ("a", "b") and stamp == again and other.passed and stamp not in other.stdout
    monkeypatch.setattr(pool, "BUILT_BYTES", 10)  # then each input has it compiled anew
    first, second = sandbox.map_python([Job(code, stdin=text, language="stamped") for text in "ab"])
    assert first.stdout.split()[1] == "a" and second.stdout.split()[1] == "b" and first.stdout.split()[0] not in second.stdout


def test_programs_that_do_not_compile_fail_for_all_their_inputs(sandbox):
    if "c" not in languages():
        pytest.skip("no C compiler")
    jobs = [Job("int main() { return x; }", stdin=text, language="c") for text in "ab"]
    assert [(one.status, "undeclared" in one.stderr) for one in sandbox.map_python(jobs)] == [("error", True)] * 2
    outcome = sandbox.run("c", jobs[0].code, tests=[("a", "b"), ("b", "c")])
    assert outcome.status == "error" and [one.passed for one in outcome.results] == [False] and "undeclared" in outcome.stderr


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
    assert said["namespaces"] == "stops all 1 attacks" and said["rlimits"] == "bounds alone, only if allowed by name"
    found["namespaces"] = selftest.Tested("namespaces", (honest, stopped, through))
    assert selftest.summary()["namespaces"] == "lets memory through" and selftest.summary()["tier"] == "none"


def test_what_the_attacks_found_is_kept(monkeypatch, tmp_path):
    runs = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(selftest, "attack", lambda tier: runs.append(tier) or [Attacked("files", tier == "bwrap", "x")])
    for tier in ("bwrap", "bwrap", "namespaces", "namespaces"):
        selftest.tested.cache_clear()
        assert selftest.tested(tier).holds == (tier == "bwrap")
    selftest.tested.cache_clear()
    assert runs == ["bwrap", "namespaces", "namespaces"]  # what failed may have been the moment's: it is tried again


def test_what_was_found_of_other_walls_does_not_count(monkeypatch, tmp_path):
    before = selftest._circumstances("namespaces")
    copies = tuple(Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in selftest.CODE)
    monkeypatch.setattr(selftest, "CODE", copies)
    assert selftest._circumstances("namespaces") == before
    wall = next(path for folder in copies for path in folder.glob("landlock.py"))
    wall.write_text(wall.read_text() + "\n# changed")
    assert selftest._circumstances("namespaces") != before


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
        lose_the_box(box)
        assert box.run_python("print(1)").passed
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_interrupted_program_is_ended_and_its_box_replaced(walled, monkeypatch):
    with Sandbox(workers=1, tier=walled) as box:
        (before,) = box.boxes()
        monkeypatch.setattr(worker.Worker, "run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            box.run_python("while True: pass")
        monkeypatch.undo()
        assert box.run_python("print(1)").passed and box.boxes() != [before]
