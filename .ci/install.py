"""Make the environment and install whorl: python .ci/install.py .venv train,openvino

Safe to repeat and to interrupt: an environment is made once, a stamp per set of extras keeps what
is installed from being installed again, a package that an interrupted install left half-written is
installed anew, and two runs at once wait for each other. Needs only the standard library.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
OLDEST_PYTHON = (3, 11)
# xgrammar names triton (270 MiB), which only its CUDA kernel imports: of the extra `dev`, without.
ALONE = {"dev": ("apache-tvm-ffi", "xgrammar")}


def is_fresh(stamp):
    """Whether the stamp is newer than everything the install depends on."""
    return stamp.exists() and all(
        stamp.stat().st_mtime_ns > path.stat().st_mtime_ns for path in INPUTS
    )


def site_packages(venv):
    return [path for path in venv.glob("lib/python*/site-packages") if path.is_dir()]


def is_whole(dist_info):
    """Whether every file of an installed package is there (pip writes RECORD last)."""
    record = dist_info / "RECORD"
    if not record.is_file():
        return False
    names = [line.rsplit(",", 2)[0].strip('"') for line in record.read_text().splitlines()]
    return all(
        (dist_info.parent / name).exists() for name in names if name and not name.endswith(".pyc")
    )


def mend(venv):
    """Forget packages that an interrupted install left half-written, so that pip installs them."""
    forgotten = []
    for packages in site_packages(venv):
        for dist_info in sorted(packages.glob("*.dist-info")):
            if not is_whole(dist_info):
                shutil.rmtree(dist_info)
                forgotten.append(dist_info.name.partition("-")[0])
        for leftover in packages.glob("~*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return forgotten


def has_pip(venv):
    """Whether pip is there, whole and starts."""
    python = venv / "bin/python"
    infos = [info for folder in site_packages(venv) for info in folder.glob("pip-*.dist-info")]
    if not python.exists() or not infos or not all(is_whole(info) for info in infos):
        return False
    command = [str(python), "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True).returncode == 0


def make_environment(venv):
    print(f"making {venv} with Python {sys.version.split()[0]}", flush=True)
    for folder in site_packages(venv):
        for path in folder.glob("pip*"):
            shutil.rmtree(path)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)


def install(venv, extras):
    """pip install -c constraints.txt -e .[extras]; shows its progress only on a terminal."""
    print(f"installing .[{extras}] as pinned in constraints.txt (some minutes)", flush=True)
    command = [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += [] if sys.stdout.isatty() else ["-qq"]
    command += os.environ.get("PIP_FLAGS", "").split()
    command += ["-c", str(INPUTS[1])]
    status = subprocess.run([*command, "-e", f"{ROOT}[{extras}]"]).returncode
    alone = [name for extra in extras.split(",") for name in ALONE.get(extra, ())]
    if status or not alone:
        return status
    return subprocess.run([*command, "--no-deps", *alone]).returncode


def main(venv, extras):
    if sys.version_info < OLDEST_PYTHON:
        print(f"whorl needs Python 3.11 or newer; found: {sys.version.split()[0]}")
        print("do: make PYTHON=/path/to/python3.11")
        return 1
    started_s = time.monotonic()
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = venv / (".stamp-" + extras.replace(",", "-"))
        if is_fresh(stamp):
            return 0
        if not has_pip(venv):
            make_environment(venv)
        for name in mend(venv):
            print(f"{name} was half-written: installing it again")
        if status := install(venv, extras):
            return status
        stamp.touch()
    print(f"installed in {time.monotonic() - started_s:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {shlex.join(error.cmd)}")
