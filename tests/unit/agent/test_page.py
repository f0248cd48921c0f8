"""The page's files: whole, without anything from elsewhere, and with a policy that holds the browser to that."""

import asyncio
import re
from pathlib import Path

import httpx

from edgeml_agent.http_api import page
from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.serve.models import Models

FOLDER = Path(page.__file__).parent / "static"
#: All that the page may weigh: on a thin link it comes within a second or two.
WEIGHT_MAX_BYTES = 64 * 1024


def get(path, **headers):
    """The page's answer."""

    async def main():
        app = build(Models(), ServerInfo(device="d", version="1"), Rules(token="a-token-of-24-characters"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return asyncio.run(main())


def test_each_file_comes_with_its_type_and_the_policy():
    """Nothing of it is run but the page's own files."""
    for path, name in page.FILES.items():
        response = get(path)
        assert response.content == (FOLDER / name).read_bytes()
        assert response.headers["content-type"].startswith(page.TYPES[Path(name).suffix])
        assert response.headers["content-security-policy"] == page.POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in page.POLICY
    assert page.POLICY.startswith("default-src 'none'")


def test_a_file_that_the_browser_has_is_not_sent_again():
    """By its tag, which is another when the file is."""
    first = get("/page/style.css")
    again = get("/page/style.css", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert get("/", if_none_match=first.headers["etag"]).status_code == 200


def test_every_file_that_is_named_is_there():
    """What the page links and imports, below the place that it was loaded from."""
    text = {name: (FOLDER / name).read_text() for name in page.FILES.values()}
    linked = re.findall(r'(?:href|src)="(page/[^"]+)"', text["index.html"])
    imported = [f"page/{it}" for script in text.values() for it in re.findall(r'from "\./([^"]+)"', script)]
    assert {f"/{path}" for path in (*linked, *imported)} | {"/"} == set(page.FILES)


#: Addresses of elsewhere, and the ways by which text becomes markup or a script.
FOREIGN = r"https?://|//cdn|@import|\burl\(|(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
INLINE = r"<style|\sstyle=|\son[a-z]+=|<script(?! type=\"module\" src=)"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline():
    """No address but the name of SVG, which nobody fetches."""
    for name in page.FILES.values():
        text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(FOREIGN, text), name
    assert not re.search(INLINE, (FOLDER / "index.html").read_text())


def test_the_page_is_light():
    """All files together, as they are."""
    assert sum((FOLDER / name).stat().st_size for name in set(page.FILES.values())) < WEIGHT_MAX_BYTES


def test_files_are_open_and_what_they_show_is_not():
    """A client without a token learns nothing of the device from them."""
    assert {get(path).status_code for path in page.FILES} == {200}
    assert get("/page/models").status_code == 401
