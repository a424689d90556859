"""A whole service of the demonstration's own, whose pages come to an inbox beside it; nothing is left of either."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from api.tokens import issue_token
from commands.serve import METRICS_VARIABLE
from demo.client import Pause, ServiceClient
from demo.crew import NAMES, engage_crew
from demo.inbox_page import OpenInbox, find_free_port, open_inbox
from demo.service import OwnService, local_address
from foundation.clock import Clock
from foundation.secrets_file import add_generated_secrets
from foundation.settings import Settings

MOST_LINES = 50
TOKEN_HOURS = 1.0
LOG_SETTINGS = {"LOG_LEVEL", "LOG_FORMAT"}


@dataclass(frozen=True)
class OwnSite:
    """The service, its address and settings, and the inbox."""

    own: OwnService
    url: str
    settings: Settings
    inbox: OpenInbox


@contextmanager
def open_own_site(clock: Clock, pause: Pause, tell: Callable[[str], None]) -> Iterator[OwnSite]:
    """Run a service in a temporary folder and on a free port, with its crew engaged, for the length of the block.

    ``tell`` is given the last words of a service that ended by itself, line by line.

    Raises:
        SettingsError: the service does not start.
        Unavailable: it does not get ready.
        Stopped: a stop was asked for during the start.
    """
    said: deque[str] = deque(maxlen=MOST_LINES)
    with (
        tempfile.TemporaryDirectory(prefix="advanced-alerting-demo-", ignore_cleanup_errors=True) as folder,
        open_inbox(clock, NAMES) as inbox,
    ):
        # Constructed, not loaded: nothing of the environment may lead to somebody's database, or to somebody.
        settings = Settings.model_construct(
            data_dir=Path(folder) / "data", port=find_free_port(), web_workers=1, **inbox.channel_settings()
        )
        own = OwnService(said.append, make_environment(settings), Path(folder))
        try:
            url = local_address(settings)
            own.await_ready(url, pause)
            settings = add_generated_secrets(settings)
            token = issue_token(settings, subject="demo-administrator", role="admin", hours=TOKEN_HOURS)
            with closing(ServiceClient(url, token, pause)) as administrator:
                engage_crew(administrator)
            yield OwnSite(own, url, settings, inbox)
        finally:
            has_died = not own.is_running
            own.stop()
            for line in said if has_died else ():
                tell(line)


def make_environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment, except that all settings but those of the log are the given ones."""
    strange = {name.upper() for name in Settings.model_fields} - LOG_SETTINGS | {METRICS_VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in strange}
    return kept | {name.upper(): str(getattr(settings, name)) for name in settings.model_fields_set}
