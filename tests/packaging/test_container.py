"""The container image without a container engine: its steps and its command, in a Debian tree with a read-only root."""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
NAMESPACE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]

if missing := [name for name in ("mmdebstrap", "unshare", "setpriv") if shutil.which(name) is None]:
    pytest.skip(f"{' and '.join(missing)} to be installed", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="only root makes a Debian tree"),
]


def instruction(name: str) -> list[str]:
    """The words of the last ``name ["…", …]`` of the Dockerfile."""
    return json.loads(re.findall(rf"^{name}.*?(\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])


def quiet(*command: str, **environment: str) -> None:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new Debian system in a folder, after the steps of the Dockerfile; packages are fetched outside of it."""
    folder = tmp_path_factory.mktemp("image")
    tree, wheels = folder / "tree", folder / "tree" / "wheels"
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    quiet("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv", suite, str(tree))
    arguments = ["chroot", str(tree), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(wheels), str(ROOT)]
    quiet(*build)
    wheel, pins = next(wheels.glob("vqdiff-*.whl")), str(ROOT / "constraints.txt")
    download = ["download", "--only-binary=:all:", "--python-version", version, "--constraint", pins]
    quiet(*pip, *download, "--dest", str(wheels), f"{wheel}[serve]")
    (tree / "source" / "docker").mkdir(parents=True)
    shutil.copy(pins, tree / "source")
    shutil.copy(ROOT / "docker" / "install.sh", tree / "source" / "docker")
    step = f"mount -t proc proc {tree}/proc; chroot {tree} /source/docker/install.sh /wheels/{wheel.name}"
    quiet(
        *NAMESPACE,
        step,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="/wheels",
        PIP_CONSTRAINT="",
        PATH="/usr/sbin:/usr/bin:/sbin:/bin",
    )
    shutil.rmtree(wheels)
    return tree


def inside(tree: Path, command: list[str]) -> subprocess.Popen[str]:
    """Start a command as the image's user, without capabilities, on a read-only root with an empty /tmp."""
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    mounts = [
        f"--bind {tree} {tree}",
        f"--rbind /dev {tree}/dev",
        f"-t proc proc {tree}/proc",
        f"-t tmpfs tmpfs {tree}/tmp",
    ]
    steps = [*(f"mount {mount}" for mount in mounts), f"mount -o remount,bind,ro {tree}"]
    limits = ["--reuid", user, "--regid", group, "--clear-groups", "--bounding-set", "-all", "--no-new-privs"]
    steps.append(f'exec chroot {tree} setpriv {" ".join(limits)} "$@"')
    variables = dict(re.findall(r"(\w+)=(\S+)", re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)[-1]))
    return subprocess.Popen(
        [*NAMESPACE, "\n".join(steps), "sh", *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def port(tree: Path) -> Iterator[str]:
    """The port of the image's own command, which runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = inside(tree, [*instruction("ENTRYPOINT"), *instruction("CMD")[:-1], port])
    assert process.stdout is not None
    lines: list[str] = []
    while not any(line.startswith("http://") for line in lines):
        lines.append(line := process.stdout.readline())
        assert line, lines
    yield port
    process.kill()  # and with it, all that runs in its namespace
    process.wait()


def test_the_server_is_healthy_and_draws(tree: Path, port: str) -> None:
    check = inside(tree, [word.replace(":8000/", f":{port}/") for word in instruction("HEALTHCHECK")])
    assert check.wait(timeout=60) == 0
    body = json.dumps({"prompt": "a red apple"}).encode()
    url, header = f"http://127.0.0.1:{port}/v1/images/generations", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, header), timeout=120) as answer:
        image = json.load(answer)["data"][0]["b64_json"]
    with Image.open(io.BytesIO(base64.b64decode(image))) as drawn:
        assert drawn.size == (128, 128)


def test_it_runs_as_a_user_who_can_write_nowhere_but_in_tmp(tree: Path) -> None:
    code = "import os; print(os.getuid(), [f for f in ('/', '/opt/vqdiff', '/usr', '/tmp') if os.access(f, os.W_OK)])"
    process = inside(tree, ["/opt/vqdiff/bin/python", "-c", code])
    assert process.communicate(timeout=60)[0] == "10001 ['/tmp']\n"
