"""The command ``diito explore``: load the models, then open the page.

1. everything that can be refused is refused before the page opens;
2. the page is served until it is interrupted; nothing is written.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from diito.evaluation.evaluate import quieten
from diito.evaluation.kinds import refusals_under
from diito.explorer.examples import examples
from diito.explorer.picture import Looking
from diito.explorer.settings import ExploreSettings
from diito.explorer.subjects import Subjects, load_subjects
from diito.refusal import Refusal


def explore(student: str, settings: ExploreSettings) -> int:
    """Serve the page until it is interrupted; the exit code. Raises Refusal for what the user must change."""
    quieten()
    with refusals_under("--", settings):
        check_address(settings)
        subjects = load_subjects(student, settings)
        page = make_page(subjects)
    serve(page, settings, wait=True)
    return 0


def make_page(subjects: Subjects) -> Any:
    """The page of these models, with everything computed once, so that the first answer comes as fast as the others."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from diito.explorer.page import build_page

    ready, looking = examples(subjects), Looking(subjects)
    looking.map(looking.picture(ready[0].view()).view)
    names = " · ".join(f"{role} {name}" for role, name in subjects.names.items())
    return build_page(looking, ready, title=f"{names} · {subjects.task.name}")


def serve(page: Any, settings: ExploreSettings, *, wait: bool) -> Any:
    """Listen. ``wait``: until it is interrupted. Gives application, address and public address, as gradio's ``launch``."""
    from diito.explorer.page import launch_options

    launched = page.launch(
        server_name=settings.host,
        server_port=settings.port or free_port(settings.host),
        share=settings.share,
        prevent_thread_lock=True,
        **launch_options(),
    )
    for address in launched[1:]:
        if address is not None:
            print(f"page       {address}  (Ctrl-C ends it)", flush=True)
    if wait:
        page.block_thread()
    return launched


def check_address(settings: ExploreSettings) -> None:
    """Refuse an address that cannot be listened on, before any model is loaded."""
    try:
        _bind(settings.host, settings.port or 0)
    except PermissionError:
        raise Refusal("port", f"{settings.port} is for the system; give one above 1023") from None
    except socket.gaierror:
        raise Refusal("host", f"{settings.host!r} is no address of this machine; give 127.0.0.1 or 0.0.0.0") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refusal("port", f"{settings.port} is taken; give another") from None
        raise Refusal("host", f"cannot listen on {settings.host}: {error.strerror}; give 127.0.0.1 or 0.0.0.0") from None


def free_port(host: str) -> int:
    """A port on which nobody listens."""
    return _bind(host, 0)


def _bind(host: str, port: int) -> int:
    """Whether one can listen there (OSError otherwise); the port, which is chosen where it is 0."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        chosen: int = probe.getsockname()[1]
        return chosen
