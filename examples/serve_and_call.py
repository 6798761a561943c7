"""Start a server with the bundled model, call its HTTP API, and stop it.

python examples/serve_and_call.py OUTPUT.png
"""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.request import Request, urlopen


def main(output: Path) -> None:
    """Generate an image of a red apple over HTTP and write it to ``output``."""
    command = [sys.executable, "-m", "vqdiff", "serve", "--port", "0", "--no-page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().partition("/docs")[0]
            body = json.dumps({"prompt": "a red apple", "seed": 0, "steps": 8}).encode()
            request = Request(f"{address}/api/draw", body, {"Content-Type": "application/json"})
            with urlopen(request) as answer:
                image = json.load(answer)["data"][0]
            output.write_bytes(b64decode(image["b64_json"]))
            print(f"{output}: seed {image['seed']}")
        finally:
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
