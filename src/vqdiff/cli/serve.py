"""``vqdiff serve``: an HTTP server that generates images."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from vqdiff.cli.options import ServedModels
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.extras import EXTRAS, require


def serve(
    *,
    models: ServedModels = ServedModels(),
    batch_invariant: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    page: bool = True,
    token: Annotated[str | None, Parameter(env_var="VQDIFF_TOKEN")] = None,
    allowed_host: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    replicas: int | None = None,
    max_rows: int | None = None,
    max_waiting: int = 64,
    max_connections: int = 512,
    max_connections_per_address: int | None = None,
    max_body: int = 16 * 2**20,
    max_prompt: int = 1000,
    max_images: int = 10,
    max_steps: int = 256,
    max_best_of: int = 8,
    max_image_bytes: int = 5 * 2**20,
    max_image_pixels: int = 1024**2,
    timeout: float = 120.0,
    header_timeout: float | None = None,
) -> None:
    """Serve models: a web page, HTTP APIs like OpenAI's and AUTOMATIC1111's, and a native one with all options.

    The page is at /, the OpenAPI page at /docs. On SIGTERM and Ctrl-C, the server finishes the accepted requests.

    Parameters
    ----------
    batch_invariant
        On a GPU, compute one image at a time: an image is then the same in any batch, as it always is on a CPU.
    host
        The address to listen on; 0.0.0.0 for all.
    port
        The port to listen on; 0 for any free one.
    page
        Whether to serve the web page besides the API; replicas serve only the API.
    token
        The bearer token that requests must send, and browsers as the password; better set in the environment than on
        the command line.
    allowed_host
        A host name that the server responds to, besides localhost, --host and addresses; may be repeated. *.example.org
        stands for all names below example.org, and * for any name.
    replicas
        Copies of the server, each with its own processors or GPU, with Ray Serve: on this machine, or on the Ray
        cluster of RAY_ADDRESS. The limits of rows, queue and connections apply to each.
    max_rows
        Images generated at once, over all models (default: 8 on a CPU, 64 on a GPU).
    max_waiting
        Requests that may wait; further ones are answered 429.
    max_connections
        Open connections; on further ones, only health checks are answered, and all else gets 503.
    max_connections_per_address
        The same for those from one address (default: half of --max-connections); not with --replicas.
    max_body
        Bytes per request.
    max_prompt
        Characters per prompt.
    max_images
        Images per request.
    max_steps
        Steps per image.
    max_best_of
        Candidates per image.
    max_image_bytes
        Bytes of an uploaded image.
    max_image_pixels
        Pixels of the square around an uploaded image.
    timeout
        Seconds to answer a request, and for a client to send it or to receive a part of the answer.
    header_timeout
        Seconds until the header of a request is complete (default: 10); not with --replicas.
    """
    require("serving", "serve", *(name for name in EXTRAS["serve"] if page or name != "gradio"))
    if replicas is not None:
        require("serving replicas", "ray")

    import signal
    import socket
    import warnings
    from ipaddress import ip_address

    import uvicorn

    from vqdiff.serving.api import create_app, quieten
    from vqdiff.serving.connections import ConnectionLimits, config_of
    from vqdiff.serving.engine import Engine, default_rows
    from vqdiff.serving.hosts import AllowedHosts
    from vqdiff.serving.limits import Limits

    limits = Limits(
        max_body, max_prompt, max_images, max_steps, max_best_of, max_image_bytes, max_image_pixels, timeout
    )
    if token == "":
        raise InputError("the token is empty: give one, or leave it out for an open server")
    own = {"max-connections-per-address": max_connections_per_address, "header-timeout": header_timeout}
    for name, value in own.items():
        if replicas is not None and value is not None:
            raise InputError(f"--{name} is {value}, and replicas have no such limit: leave out one of the two")
    half = -(-max_connections // 2) if max_connections_per_address is None else max_connections_per_address
    wait = 10.0 if header_timeout is None else header_timeout
    connections = ConnectionLimits(max_connections, half, wait, timeout)
    allowed_hosts = AllowedHosts([*allowed_host, *([host] if host else [])])
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error
    if token is None and not ip_address(listener.getsockname()[0]).is_loopback:
        warning = f"other machines can reach {host or 'every address'} and there is no token: all of them can use it"
        warnings.warn(f"{warning}; set VQDIFF_TOKEN", InputWarning, stacklevel=1)
    if replicas is not None:
        from vqdiff.serving import cluster

        port = listener.getsockname()[1]
        listener.close()
        replica = cluster.Replica(
            models.sources(), models.device, models.precision, limits, token, max_rows, max_waiting, allowed_hosts,
            batch_invariant,
        )  # fmt: skip
        cluster.run(replica, replicas=replicas, host=host, port=port, max_connections=max_connections)
        return
    pipes = models.load(batch_invariant=batch_invariant)
    rows = default_rows(next(iter(pipes.values())).model.device) if max_rows is None else max_rows
    quieten()
    app = create_app(
        pipes, Engine(max_rows=rows, max_waiting=max_waiting), limits, token, page=page, allowed_hosts=allowed_hosts
    )
    config = config_of(app, connections, stop_timeout=round(timeout) + 1)
    # uvicorn stops gracefully and then raises the signal again, which would count as a failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    at = f"http://{host}:{listener.getsockname()[1]}/{'' if page else 'docs'}"
    print(f"{at}: {', '.join(pipes)}, {rows} images at once", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
