"""The Swagger page: everything it refers to comes from the service itself, and its policy forbids the rest."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

DOCS = "/api/v1/docs"
SAME_ORIGIN = {"'self'", "'unsafe-inline'", "data:"}


class ReferenceCollector(HTMLParser):
    """Collects what a page makes a browser fetch, and the text of its inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline = ""
        self._is_inline = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = ("src", "href", "data", "poster", "srcset", "action", "formaction")
        self.references += [value or "" for name, value in attrs if name in fetched]
        self._is_inline = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_inline = False

    def handle_data(self, data: str) -> None:
        if self._is_inline:
            self.inline += data


@pytest.fixture
def page(client) -> ReferenceCollector:
    response = client.get(DOCS)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    collector = ReferenceCollector()
    collector.feed(response.text)
    collector.close()
    return collector


def read_policy(header: str) -> dict[str, set[str]]:
    directives = (part.split() for part in header.split(";"))
    return {name: set(sources) for name, *sources in directives}


def test_page_is_found_with_and_without_a_slash(client):
    for path in (DOCS, f"{DOCS}/"):
        response = client.get(path)
        assert (response.status_code, response.mimetype) == (200, "text/html")
        assert "<title>Advanced Alerting</title>" in response.text


def test_everything_the_page_refers_to_is_answered_by_the_service(client, page):
    assert len(page.references) == 3
    kinds = set()
    for reference in page.references:
        assert not re.match(r"(?i)[a-z][a-z0-9+.-]*:|//", reference), f"{reference} lies elsewhere"
        with client.get(urljoin(DOCS, reference)) as response:
            assert response.status_code == 200, reference
            kinds.add(response.mimetype)
    assert kinds == {"text/css", "text/javascript", "image/png"}


def test_page_itself_names_no_other_address(client, page):
    for path in (DOCS, f"{DOCS}/oauth2-redirect.html"):
        assert not re.findall(r"(?i)(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", client.get(path).text), path
    assert "@import" not in page.inline


def test_page_loads_the_specification_and_asks_no_validator(client, page):
    (address,) = re.findall(r"url: \"([^\"]+)\"", page.inline)
    assert address == "/api/v1/openapi.json"
    assert client.get(address).json["openapi"] == "3.0.3"
    # Left to its default, the page would send the address of the specification to a validator on the internet.
    assert "validatorUrl: null" in page.inline


def test_style_sheet_loads_nothing_from_elsewhere(client, page):
    (address,) = (reference for reference in page.references if reference.endswith(".css"))
    with client.get(address) as response:
        sheet = response.text
    assert "@import" not in sheet
    fetched = re.findall(r"url\(\s*[\"']?([^\"')]+)", sheet)
    assert fetched
    assert all(target.startswith("data:") for target in fetched)


def test_policy_forbids_every_other_origin(client, page):
    for path in (DOCS, f"{DOCS}/", f"{DOCS}/oauth2-redirect.html", *page.references):
        with client.get(path) as response:
            policy = read_policy(response.headers["Content-Security-Policy"])
            assert policy["default-src"] == {"'self'"}, path
            assert all(sources <= SAME_ORIGIN for sources in policy.values()), path
            # Inline scripts and styles are the page's own; nothing may be evaluated from text.
            assert "data:" not in policy["script-src"], path
            assert response.headers["X-Content-Type-Options"] == "nosniff"
