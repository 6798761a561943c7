"""``vqdiff serve``: an HTTP server that draws."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from vqdiff.foundation.config import Precision
from vqdiff.foundation.errors import InputError, InputWarning


def serve(
    *,
    model: Annotated[tuple[str, ...], Parameter(negative="")] = ("emoji",),
    device: str = "auto",
    precision: Precision = "auto",
    batch_invariant: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    page: bool = True,
    token: Annotated[str | None, Parameter(env_var="VQDIFF_TOKEN")] = None,
    allowed_host: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    replicas: int | None = None,
    max_rows: int | None = None,
    max_waiting: int = 64,
    max_connections: int = 512,
    max_connections_per_address: int | None = None,
    max_body: int = 16 * 2**20,
    max_prompt: int = 1000,
    max_images: int = 10,
    max_steps: int = 256,
    max_image_bytes: int = 5 * 2**20,
    max_image_pixels: int = 1024**2,
    timeout: float = 120.0,
    header_timeout: float | None = None,
) -> None:
    """Draw for others: a web page, and an HTTP API, OpenAI-compatible and a native one with previews.

    The page is at /, the OpenAPI page at /docs. SIGTERM and Ctrl-C let the server finish what it has taken.

    Parameters
    ----------
    model
        What to serve, as name=source or source; may be repeated. The first is the default.
    device
        auto, cpu or cuda.
    precision
        auto, float32, bfloat16 or int8 (CPUs only): what the networks compute with.
    batch_invariant
        On a GPU, compute one image at a time: a seed's picture is then the same in any batch, as on a CPU it always is.
    host
        The address to listen at; 0.0.0.0 for all.
    port
        The port to listen at; 0 for any that is free.
    page
        Whether to serve the web page, or the API alone; replicas serve that alone.
    token
        What requests must bring as a bearer token, and browsers as the password; better in the environment than on the
        command line.
    allowed_host
        A name under which browsers and others may ask for this server, besides localhost, --host and addresses; may be
        repeated. *.example.org is all below example.org, and * any name.
    replicas
        Copies of the server, each with processors or a GPU of its own, with Ray Serve: on this machine, or on the Ray
        cluster of RAY_ADDRESS. Rows, queue and connections are for each.
    max_rows
        Pictures drawn at once, over all models (default: 8 on a CPU, 64 on a GPU).
    max_waiting
        Requests that may wait; more are answered 429.
    max_connections
        Open connections; on more, health checks alone are answered, and all else 503.
    max_connections_per_address
        The same for those from one address (default: half of them all); not with --replicas.
    max_body
        Bytes of a request.
    max_prompt
        Characters of a prompt.
    max_images
        Pictures of a request.
    max_steps
        Steps of a picture.
    max_image_bytes
        Bytes of a picture that is sent.
    max_image_pixels
        Pixels of the square around a picture that is sent.
    timeout
        Seconds that a request may take, and that a client may take to send or receive.
    header_timeout
        Seconds that a client may take to begin, to the end of the header of its request (default: 10); not with
        --replicas.
    """
    import signal
    import socket
    import warnings
    from importlib.util import find_spec
    from ipaddress import ip_address

    try:
        import uvicorn

        from vqdiff.serving.api import create_app, quieten

        if page and find_spec("gradio") is None:  # imported at the last: it takes seconds
            raise ModuleNotFoundError(name="gradio")
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}: pip install 'vqdiff[serve]'") from error

    from vqdiff.pipeline import load
    from vqdiff.serving.connections import ConnectionLimits, config_of
    from vqdiff.serving.engine import Engine, default_rows
    from vqdiff.serving.hosts import AllowedHosts
    from vqdiff.serving.limits import Limits

    limits = Limits(max_body, max_prompt, max_images, max_steps, max_image_bytes, max_image_pixels, timeout)
    if token == "":
        raise InputError("the token is empty: give one, or none for an open server")
    own = {"max-connections-per-address": max_connections_per_address, "header-timeout": header_timeout}
    for name, value in own.items():
        if replicas is not None and value is not None:
            raise InputError(f"--{name} is {value}, and replicas have no such limit: leave it out, or --replicas")
    half = -(-max_connections // 2) if max_connections_per_address is None else max_connections_per_address
    wait = 10.0 if header_timeout is None else header_timeout
    connections = ConnectionLimits(max_connections, half, wait, timeout)
    allowed_hosts = AllowedHosts([*allowed_host, *([host] if host else [])])
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen at {host}:{port}: {error}; choose another --host or --port") from error
    if token is None and not ip_address(listener.getsockname()[0]).is_loopback:
        warning = f"other machines can reach {host or 'every address'} and there is no token: whoever can, may draw"
        warnings.warn(f"{warning}; set VQDIFF_TOKEN", InputWarning, stacklevel=1)
    sources = dict[str, str]()
    for one in model:
        name, named, source = one.partition("=")
        if name in sources:
            raise InputError(f"two models are called {name!r}: give one another name, --model other={source or name}")
        sources[name] = source if named else one
    if replicas is not None:
        from vqdiff.serving import cluster

        port = listener.getsockname()[1]
        listener.close()
        replica = cluster.Replica(
            sources, device, precision, limits, token, max_rows, max_waiting, allowed_hosts, batch_invariant
        )
        cluster.run(replica, replicas=replicas, host=host, port=port, max_connections=max_connections)
        return
    options: Any = {"device": device, "precision": precision, "batch_invariant": batch_invariant}
    pipes = {name: load(source, **options) for name, source in sources.items()}
    rows = default_rows(next(iter(pipes.values())).model.device) if max_rows is None else max_rows
    quieten()
    app = create_app(
        pipes, Engine(max_rows=rows, max_waiting=max_waiting), limits, token, page=page, allowed_hosts=allowed_hosts
    )
    config = config_of(app, connections, stop_timeout=round(timeout) + 1)
    # uvicorn stops gracefully and then raises the signal again: to have stopped is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    at = f"http://{host}:{listener.getsockname()[1]}/{'' if page else 'docs'}"
    print(f"{at}: {', '.join(pipes)}, {rows} pictures at once", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
