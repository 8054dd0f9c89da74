"""A server over one store and one model: ``serve``, ``page``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.boundary import Terminated
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.places import without_password

_EXTRA = ("fastapi", "jinja2", "python_multipart", "prometheus_client", "uvicorn")
_OUT = Path("mrrag-demo")

Host = Annotated[str, typer.Option(help="Address to listen at; any but loopback needs a token.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes any free one.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Once it listens, print what is served, and where.")
]
Out = Annotated[Path, typer.Option(help="demo: folder for the images and the store.")]


def serve(
    store: options.Store = None,
    model: options.ModelOrDefault = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve synthetic studies and the shipped model.")
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="MRRAG_TOKEN", help="What clients must show (16 characters at least)."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name by which clients call the server, behind a proxy."),
    ] = None,
    weights: options.Weights = None,
    calibration: options.CalibrationOrNone = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = defaults.MAX_NEW_TOKENS,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Most questions answered at once.")
    ] = defaults.BATCH_SIZE,
    running: Annotated[int, typer.Option(min=1, help="Most requests at work.")] = 32,
    waiting: Annotated[
        int, typer.Option(min=0, help="Most requests that wait; further ones are refused (429).")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a request is given up (503).")
    ] = 120.0,
    upload_mb: Annotated[int, typer.Option(min=1, help="Largest request, in MB.")] = 64,
    image_megapixels: Annotated[int, typer.Option(min=1, help="Largest image.")] = 50,
    tracing: Annotated[
        bool, typer.Option("--tracing", help="Send spans by OpenTelemetry (OTEL_ variables).")
    ] = False,
    trace_payloads: Annotated[
        bool,
        typer.Option("--trace-payloads", help="With questions, reports and answers in them."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log every request: its route, status and time.")
    ] = False,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    device: options.Device = "auto",
    engine: options.Engine = "transformers",
    api_base: options.ApiBase = None,
    out: Out = _OUT,
    as_json: AsJson = False,
) -> None:
    """Answer over HTTP, for many users at once; one process serves one device."""
    if demo and (store is not None or model is not None):
        raise InputError("--demo has its own store and model: leave --store and --model out")
    if not demo and store is None:
        raise InputError("--store is missing; --demo serves synthetic studies")
    if not demo and out != _OUT:
        raise InputError("--out is where --demo makes its studies: leave it out")
    if trace_payloads and not tracing:
        raise InputError("--trace-payloads goes with --tracing")
    modules = _modules()
    settings = modules.Settings(
        host=host,
        port=port,
        token=token,
        allowed_hosts=tuple(one.lower() for one in allowed_host or ()),
        upload_bytes=upload_mb * 2**20,
        running=running,
        waiting=waiting,
        seconds=timeout,
    )
    listener = modules.bind(settings)  # before anything slow is loaded
    generator: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "quantization": quantization,
        "vision_tower": vision_tower,
        "allow_pickle": allow_pickle,
        "adapter": adapter,
        "merge_adapter": merge_adapter,
        "runtime": engine,
        "api_base": api_base,
    }
    if demo:
        from mrrag_llamaindex.phantom.demo import build_demo

        store, model = str(build_demo(out, say=console.say_progress).store), defaults.PHANTOM
    if tracing:
        from mrrag_llamaindex.integration.telemetry import trace_calls

        trace_calls(payloads=trace_payloads)
    if verbose:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("mrrag_llamaindex.serving").setLevel(logging.INFO)
    service = modules.Service.load(
        str(store),
        weights=weights,
        calibration=options.calibration_given(calibration),
        device=device,
        name=name,
        image_pixels=image_megapixels * 1_000_000,
        model=model or defaults.DEFAULT_MODEL,
        **generator,
    )

    def ready() -> None:
        address, pairs = modules.address_of(listener), len(service.index.store)
        place = without_password(str(store))
        if as_json:
            served = {"address": address, "model": service.name, "device": service.device}
            console.print_json({**served, "store": place, "pairs": pairs})
            sys.stdout.flush()  # whoever waits for it reads a pipe
        console.say(
            "serving",
            f"{address}, model {service.name} on {service.device}, store {place} "
            f"({pairs} pairs); {address}/ is the page for people, "
            f"{address}/docs describes the API, Ctrl-C ends it",
        )
        console.say("note", options.NOTICE)

    # Uvicorn ends its requests first, and then lets the signal go on as it would have.
    with contextlib.suppress(KeyboardInterrupt, Terminated):
        modules.run(modules.create_app(service, settings), listener, ready)


def page(
    demo: Annotated[
        bool, typer.Option("--demo", help="On synthetic studies, with the shipped model.")
    ] = False,
    port: Port = 8000,
    out: Out = _OUT,
    as_json: AsJson = False,
) -> None:
    """Serve the page on synthetic studies, with no other input; --store and others: mrrag serve."""
    if not demo:
        raise InputError(
            "mrrag page shows the demo: mrrag page --demo; for a store of your own: mrrag serve "
            "--store ... --model ..."
        )
    serve(demo=True, port=port, out=out, as_json=as_json, token=os.environ.get("MRRAG_TOKEN"))


class _Modules:
    """What only a server needs."""

    def __init__(self) -> None:
        import python_multipart  # noqa: F401 (Starlette would miss it with the first form)

        from mrrag_llamaindex.serving.app import create_app
        from mrrag_llamaindex.serving.server import address_of, bind, run
        from mrrag_llamaindex.serving.service import Service
        from mrrag_llamaindex.serving.settings import Settings

        self.Settings, self.Service = Settings, Service
        self.create_app, self.bind, self.run, self.address_of = create_app, bind, run, address_of


def _modules() -> _Modules:
    """Import them, or say which extra is missing."""
    try:
        return _Modules()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        raise InputError(f'{missing} is not here: pip install "mrrag-llamaindex[serve]"') from None
