"""What user code changes in a worker's process is put back; in a process of its own for each test."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_reproducer.actors.process_state import BROKEN_EXIT_CODE, ProcessState

DEADLINE_S = 30.0
BUDGET_S = 100e-6
"""Ten times what it takes on an idle machine: this is to notice a mistake such as a call of `signal.getsignal`."""

PRELUDE = """
import os, signal, sys, time
from ray_reproducer.actors.process_state import ProcessState
os.environ["BEFORE"] = "1"
os.environ["CHANGED"] = "1"
process = ProcessState()
"""


def run(body: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that has a `process` to restore."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def check(body: str, cwd: Path) -> None:
    """Run code that ends by saying that all is well."""
    done = run(body + "\nprint('well')", cwd)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


@pytest.fixture
def process() -> Iterator[ProcessState]:
    state = ProcessState()
    yield state
    state.forget()


# ---------------------------------------------------------------- rule 1


def test_rule_1_the_working_directory_even_if_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    body = """
    here = os.getcwd()
    os.chdir("/")
    process.restore()
    assert os.getcwd() == here
    os.mkdir("sub"); os.chdir("sub"); os.rmdir("../sub")
    process.restore()
    assert os.getcwd() == here
    """
    check(textwrap.dedent(body), tmp_path / "work")


def test_rule_1_the_environment(tmp_path: Path) -> None:
    body = """
    before = dict(os.environ)
    os.environ["ADDED"] = "x"; os.environ["CHANGED"] = "2"; del os.environ["BEFORE"]; os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    process.restore()
    assert dict(os.environ) == before
    assert os.popen("echo $BEFORE$CHANGED$ADDED").read() == "11\\n"
    assert time.timezone != -9 * 3600
    kept = os.environ
    os.environ = {}
    process.restore()
    assert os.environ is kept
    os.environ.clear()
    process.restore()
    assert dict(os.environ) == before
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_1_the_module_search_path(tmp_path: Path) -> None:
    body = """
    path, before = sys.path, list(sys.path)
    sys.path.insert(0, "/x"); sys.path.remove(before[-1])
    process.restore()
    assert sys.path is path and path == before
    sys.path = []
    process.restore()
    assert sys.path is path and path == before
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_1_the_umask_and_the_recursion_limit(tmp_path: Path) -> None:
    body = """
    # As low as Python allows here: our own calls need more.
    for low in range(1, 100):
        try:
            sys.setrecursionlimit(low)
        except RecursionError:
            continue
        break
    process.restore()
    mask = os.umask(0o77); limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit * 100)
    process.restore()
    assert os.umask(mask) == mask
    assert sys.getrecursionlimit() == limit
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_1_signal_handlers_and_alarms(tmp_path: Path) -> None:
    body = """
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, lambda *_: None)
    signal.alarm(1)
    signal.setitimer(signal.ITIMER_PROF, 0.01)
    process.restore()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert signal.getitimer(signal.ITIMER_REAL) == signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_1_an_alarm_that_rings_while_it_is_put_back_is_the_last(tmp_path: Path) -> None:
    body = """
    def ring(*_): raise TimeoutError
    rang = 0
    for trial in range(2000):
        signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + trial % 20))
            process.restore()
        except TimeoutError:
            rang += 1
            process.restore()
    assert rang, "not once: the test tests nothing"
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    """
    check(textwrap.dedent(body), tmp_path)


@pytest.mark.parametrize("how", ["sys.stdout = open('mine', 'w')", "sys.stdout = None", "sys.stdout.close()",
                                 "import io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')",
                                 "os.close(1)", "os.close(1); kept = open('mine', 'w'); print('theirs', flush=True)",
                                 "os.dup2(os.open('mine', os.O_WRONLY | os.O_CREAT), 1)"])  # fmt: skip
def test_rule_1_the_standard_streams(how: str, tmp_path: Path) -> None:
    check(f"{how}\nprocess.restore()\nsys.stdout.flush()\nos.write(1, b'')", tmp_path)


def test_rule_1_standard_input_is_what_it_was(tmp_path: Path) -> None:
    body = """
    os.close(0); os.open("/etc/passwd", os.O_RDONLY)
    process.restore()
    assert sys.stdin.read() == ""
    sys.stdin.close()
    process.restore()
    assert not sys.stdin.closed
    """
    check(textwrap.dedent(body), tmp_path)


# ---------------------------------------------------------------- rule 2


def test_rule_2_what_an_import_adds_stays_and_what_it_takes_away_comes_back(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("import os, sys\nos.environ['PLUGINS'] = '/p'\nsys.path.append('/q')\n")
    body = """
    import plugin
    del os.environ["BEFORE"]; os.environ["CHANGED"] = "2"
    process.restore()
    assert (os.environ["PLUGINS"], sys.path[-1]) == ("/p", "/q")
    assert (os.environ["BEFORE"], os.environ["CHANGED"]) == ("1", "1")
    os.environ["ADDED"] = "x"; sys.path.append("/r"); del os.environ["PLUGINS"]
    process.restore()
    assert "ADDED" not in os.environ and sys.path[-1] == "/q" and os.environ["PLUGINS"] == "/p"
    """
    check(textwrap.dedent(body), tmp_path)


# ---------------------------------------------------------------- rules 3 to 6


def test_rule_3_what_else_user_code_has_set_up_stays(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("cache = []\n")
    body = """
    import logging, random, threading, warnings
    import plugin
    plugin.cache.append("kept")
    file = open("mine", "w")
    logging.getLogger("theirs").setLevel("ERROR")
    warnings.filterwarnings("error", "theirs")
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    random.seed(7)
    drawn = random.getstate()
    loaded = plugin
    process.restore()
    assert sys.modules["plugin"] is loaded and loaded.cache == ["kept"]
    assert file.write("still open") == 10
    assert logging.getLogger("theirs").level == logging.ERROR
    assert warnings.filters[0][0] == "error"
    assert thread.is_alive()
    assert random.getstate() == drawn
    end.set()
    file.close()
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_4_a_forked_child_ends_where_our_code_would_go_on(tmp_path: Path) -> None:
    body = """
    child = os.fork()
    process.restore()
    assert child, "the child came back"
    assert os.waitpid(child, 0)[1] == 0
    """
    check(textwrap.dedent(body), tmp_path)


def test_rule_5_sigterm_ends_the_process_even_if_user_code_goes_on(tmp_path: Path) -> None:
    body = """
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except BaseException as error:
        print(type(error).__name__)
    process.restore()
    print("went on")
    """
    done = run(body, tmp_path)
    assert (done.returncode, done.stdout) == (1, "SystemExit\n")
    assert "SIGTERM" in done.stderr


def test_rule_5_the_handler_that_was_there_has_its_say(tmp_path: Path) -> None:
    body = """
    process.forget()
    signal.signal(signal.SIGTERM, lambda *_: print("Ray's", flush=True))
    process = ProcessState()
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
    """
    done = run(body, tmp_path)
    assert (done.returncode, done.stdout) == (1, "Ray's\n")


def test_rule_6_a_process_that_can_not_be_put_back_ends(tmp_path: Path) -> None:
    done = run("os.closerange(3, 100)\nprocess.restore()\nprint('went on')", tmp_path)
    assert (done.returncode, done.stdout) == (BROKEN_EXIT_CODE, "")
    assert "user code has broken this process: OSError: [Errno 9] Bad file descriptor" in done.stderr


# ---------------------------------------------------------------- rule 7


def test_rule_7_it_takes_microseconds(process: ProcessState) -> None:
    rounds = 500
    assert min(timeit.repeat(process.restore, number=rounds, repeat=20)) / rounds < BUDGET_S


def test_what_it_holds_is_closed_in_the_end() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        ProcessState().forget()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert signal.getsignal(signal.SIGTERM) is handler
