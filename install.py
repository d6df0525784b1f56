"""Install what a command of the README needs into .venv: ``python3 install.py quickstart``, or ``test``.

Says each step, how large it is and how long it took. What a user can mend is one line: a Python of another version, one
without venv, a full disk, no network. Standard library only, and written so that Python 2.7 and 3.6 can read it as
well: they have to be able to say that they are too old.
"""

import errno
import glob
import os
import re
import shutil
import subprocess
import sys
import threading
import time

OLDEST, NEWEST = (3, 11), (3, 13)
SETS = {  # name: lock, GB that it takes in .venv beside a CPU build of torch (measured on Linux, Python 3.11)
    "quickstart": ("requirements-quickstart.lock", 1.7),
    "test": ("requirements.lock", 2.6),
}
SOUNDS = "/usr/share/sounds/alsa"
LARGE_MB = 10  # packages from this size on have a line of their own
ROOT = os.path.dirname(os.path.abspath(__file__))


class Problem(Exception):
    """What a user can mend, in one line."""


def find_browser():
    """Path of the first of Chromium's names that is installed, or None."""
    return next((p for p in map(which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


def find_sounds():
    """A folder of WAV files of speech, or None: $EDGEMM_SOUNDS, or what Debian's alsa-utils brings."""
    folder = os.environ.get("EDGEMM_SOUNDS", SOUNDS)
    return folder if glob.glob(os.path.join(folder, "*.wav")) else None


# What no Python package brings: name -> (how it is found, what the tests need it for, how to get it)
THINGS = {
    "chromium": (find_browser, "opens the reports", "apt-get install chromium"),
    "sounds": (
        find_sounds,
        "speech for the audio frontends",
        "apt-get install alsa-utils, or EDGEMM_SOUNDS=FOLDER of WAV files",
    ),
}


def missing_things():
    """Names of THINGS that are not here."""
    return [name for name in sorted(THINGS) if THINGS[name][0]() is None]


def install(name, venv):
    """Bring ``venv`` to the state of a set's lock."""
    lock, gigabytes = SETS[name]
    check_python(name)
    if name == "test":
        for thing in missing_things():
            _, used_for, get = THINGS[thing]
            say("MISSING: %s (%s). Its tests will not run, and make test will fail: %s" % (thing, used_for, get))
    stamp = os.path.join(venv, ".installed-" + name)
    if newer(stamp, (os.path.join(ROOT, lock), os.path.join(ROOT, "pyproject.toml"))):
        return
    started = time.time()
    with open(os.path.join(ROOT, lock)) as file:
        pins = [line.strip() for line in file if "==" in line and not line.startswith("#")]
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    how_much = "%.1f GB with torch's CPU build, a few minutes, once" % gigabytes
    say("Installing %d packages into %s: %s." % (len(pins), venv, how_much))
    check_disk(venv, gigabytes)
    python = make_venv(venv)
    # torch alone is resolved: its GPU build brings packages that its CPU build does not have.
    pip(python, venv, "1/3 " + torch, [torch, "-c", os.path.join(ROOT, lock)])
    pip(python, venv, "2/3 the packages of %s" % lock, ["--no-deps", "-r", os.path.join(ROOT, lock)])
    pip(python, venv, "3/3 edgemm itself, from this folder", ["--no-deps", "--editable", ROOT])
    with open(stamp, "w"):
        pass
    say("Installed: %.2f GB in %s, %.0f s." % (used_gb(venv), venv, time.time() - started))


def check_python(name):
    """Raise Problem where this Python is of a version that edgemm is not tested with."""
    version = sys.version_info[:2]
    if OLDEST <= version <= NEWEST:
        return
    fitting = ["python%d.%d" % (3, minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    there = next((p for p in fitting if which(p) and runs(p)), None)
    advice = "make %s PYTHON=%s" % (name, there) if there else "install python3.11, 3.12 or 3.13"
    raise Problem("this is Python %d.%d; edgemm needs 3.11, 3.12 or 3.13: %s" % (version + (advice,)))


def check_disk(venv, gigabytes):
    """Raise Problem where what is to come does not fit on the disk."""
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(venv))).free / 1e9
    have = used_gb(venv) if os.path.isdir(venv) else 0.0
    if free + have < gigabytes:
        raise Problem(
            "%.1f GB free where %s would be, %.1f GB needed: free some, or make VENV=FOLDER" % (free, venv, gigabytes)
        )


def make_venv(venv):
    """Make a virtual environment where there is none of this Python's version; return its Python."""
    python = os.path.join(venv, "Scripts" if os.name == "nt" else "bin", "python")
    wanted = "%d.%d" % sys.version_info[:2]
    if os.path.exists(venv) and os.listdir(venv):
        ask = [python, "-c", "import sys, pip; print('%d.%d' % sys.version_info[:2])"]
        try:
            found = subprocess.check_output(ask, stderr=subprocess.STDOUT).decode().strip()
        except (OSError, subprocess.CalledProcessError):
            found = "no working Python, or none with pip"
        if found != wanted:
            raise Problem(
                "%s: it has %s, and this is Python %s: remove it (make clean) or make VENV=FOLDER"
                % (venv, found, wanted)
            )
        return python
    try:
        import ensurepip  # noqa: F401  (Debian's Python comes without it)
        import venv as _  # noqa: F401
    except ImportError:
        raise Problem("this Python has no venv: apt-get install python%s-venv" % wanted)
    made = subprocess.run([sys.executable, "-m", "venv", venv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if made.returncode:
        raise Problem("no virtual environment in %s: %s" % (venv, last_line(made.stdout.decode("utf-8", "replace"))))
    return python


def pip(python, venv, title, arguments):
    """Run one pip install: a line for each large package, one now and then, and one at the end: how much, how long."""
    started, before = time.time(), used_gb(venv)
    say("[%s]" % title)
    command = [python, "-u", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--no-input", "--retries", "2"] + arguments
    environment = dict(os.environ, PYTHONUNBUFFERED="1", PIP_NO_COLOR="1", NO_COLOR="1")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    log, gpu, said_at, ended = [], False, time.time(), threading.Event()
    watching = threading.Thread(target=watch, args=(venv, started, ended))
    watching.daemon = True
    watching.start()
    for raw in running.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        log.append(line)
        fetched = re.search(r"(?:Downloading|Using cached) (\S+?)(?:\.whl|\.tar\.gz|\.zip) \(([\d.]+) (MB|GB)\)", line)
        if fetched and float(fetched.group(2)) * (1000 if fetched.group(3) == "GB" else 1) >= LARGE_MB:
            which_one = "-".join(os.path.basename(fetched.group(1)).split("-")[:2])
            how = "from pip's cache" if line.lstrip().startswith("Using") else "downloading"
            say("    %s %s %s, %s" % (which_one, fetched.group(2), fetched.group(3), how))
        elif not gpu and re.match(r"\s*Collecting (nvidia-|triton|cuda-toolkit)", line):
            gpu = True
            say("    torch's GPU build, several GB more. For its CPU build: Ctrl-C, install that torch into")
            say("    %s as pytorch.org says, and give the same command again." % venv)
        elif "Retrying" in line and time.time() - said_at > 5:
            said_at = time.time()
            say("    no answer from the package index, trying again ...")
    ended.set()
    watching.join()
    if running.wait():
        raise Problem(why_pip_failed("\n".join(log), python))
    say("    done: %.2f GB, %.0f s" % (used_gb(venv) - before, time.time() - started))


def watch(venv, started, ended):
    """Say every 15 seconds how much has been unpacked, until the event is set."""
    while not ended.wait(15):
        say("    %.2f GB in %s after %.0f s ..." % (used_gb(venv), venv, time.time() - started))


NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known|Temporary failure in name resolution"
    r"|Network is unreachable|Connection refused|getaddrinfo failed|ProxyError|Max retries exceeded|ConnectionReset"
)


def why_pip_failed(log, python):
    """One line for the output of a pip that failed."""
    if NO_NETWORK.search(log):
        return "no network: pip can't reach its package index (%s -m pip config list shows which)" % python
    if "No space left on device" in log:
        return "the disk is full: free some space and give the same command again"
    missing = re.search(r"No matching distribution found for (\S+)", log)
    if missing:
        here = "Python %d.%d on %s" % (sys.version_info[0], sys.version_info[1], sys.platform)
        return "pip's package index has no %s for %s" % (missing.group(1), here)
    errors = [line for line in log.splitlines() if re.match(r"\s*ERROR:", line)]
    return "pip: %s" % last_line(re.sub(r"^\s*ERROR:\s*", "", errors[0]) if errors else log)


def last_line(text):
    """The last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]


def used_gb(folder):
    """GB that a folder takes; links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError as error:
                if error.errno != errno.ENOENT:  # pip removes what it no longer needs
                    raise
    return total / 1e9


def newer(stamp, than):
    """Whether a file is there and not older than any of others."""
    return os.path.exists(stamp) and all(os.path.getmtime(stamp) >= os.path.getmtime(path) for path in than)


def which(program):
    """Path of a program, or None."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def runs(program):
    """Whether a Python starts: a shim may be there without its version."""
    with open(os.devnull, "w") as nowhere:
        return subprocess.call([program, "-c", ""], stdout=nowhere, stderr=nowhere) == 0


def say(line):
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments):
    """Return the exit code: 0 done, 2 a problem that the one line on stderr names."""
    if not arguments or arguments[0] not in SETS or len(arguments) > 2:
        sys.stderr.write("usage: python3 install.py quickstart|test [FOLDER]\n")
        return 2
    try:
        install(arguments[0], arguments[1] if len(arguments) > 1 else ".venv")
    except Problem as problem:
        sys.stderr.write("install: %s\n" % problem)
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("install: interrupted; the same command goes on from here\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
