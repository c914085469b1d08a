"""Pictures that are sent to the server as questions, honest and hostile ones."""

import http.client
import io
import struct
import time
import zlib
from urllib.parse import urlsplit

import pytest
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from starlette.testclient import TestClient

from aladin_jax.pictures import UnreadableError
from aladin_jax.search.decoding import read_picture_apart
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import Limits
from aladin_jax.search.query import Searcher
from aladin_jax.search.serve import SearchServer
from aladin_jax.search.uploads import Uploads
from tests.convert.tiny_detectors import photograph
from tests.search.serving import serving_page

TYPE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def server(photographs):
    limits, searcher = Limits(picture_bytes=1 << 20, request_seconds=2.0), Searcher(Index(photographs / "index"))
    return SearchServer(searcher, limits, Uploads(searcher, photographs / "vit", limits))


@pytest.fixture(scope="module")
def client(server):
    with TestClient(server.app()) as client:
        yield client


@pytest.fixture(scope="module")
def address(server):
    with serving_page(server.app(), server._limits) as address:
        yield address


def send(client, content, path="/api/similar", **parameters):
    return client.post(path, content=content, params=parameters, headers=TYPE)


def test_a_picture_gets_what_it_gets_out_of_the_index(client):
    photo = photograph("coffee.png").read_bytes()
    by_file = send(client, photo, "/api/captions").json()["results"]
    by_id = client.get("/api/captions", params={"id": "coffee"}).json()["results"]
    assert [hit["caption"] for hit in by_file] == [hit["caption"] for hit in by_id]
    assert by_file[0]["alignment"] == pytest.approx(by_id[0]["alignment"], abs=1e-4)
    assert by_file[0]["why"][0]["box"]
    similar = [hit["id"] for hit in send(client, photo).json()["results"]]
    assert similar == ["coffee", *(hit["id"] for hit in client.get("/api/similar?id=coffee").json()["results"])]


def png(width, height):
    """A black picture that says to be as large as that: a few bytes, unpacked to gigabytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def written(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


HOSTILE = {
    "nothing": (b"", "no format that is known"),
    "text": (b"<svg onload=alert(1)>" * 100, "no format that is known"),
    "a program for Ghostscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no format that is known"),
    "cut short": (photograph("rocket.jpg").read_bytes()[:20_000], "truncated"),
    "a bomb": (png(10_000, 10_000), "exceeds limit of 67108864 pixels"),
    "one too large to be shown as a size": (png(2**31 - 1, 2**31 - 1), "not a picture"),
    "a line": (written(Image.new("RGB", (60_000, 1)), "PNG"), "60000 x 1 pixels are a line"),
}


@pytest.mark.parametrize(("content", "error"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_picture_that_can_be_read_is_refused_with_the_reason(client, content, error):
    answer = send(client, content)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert error in answer.json()["error"]


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (200, 1)])
def test_the_smallest_pictures_are_answered(client, size):
    assert send(client, written(Image.new("RGB", size), "PNG")).status_code == 200


def test_a_file_that_is_too_large_is_refused_whether_it_says_so_or_not(client):
    for content in (bytes((1 << 20) + 1), iter([bytes(1 << 19)] * 3)):
        answer = send(client, content)
        assert answer.status_code == 413
        assert "more than 1,048,576 bytes" in answer.json()["error"]


def test_a_form_of_another_site_is_refused(client):
    answer = client.post("/api/similar", files={"picture": photograph("coffee.png").read_bytes()})
    assert (answer.status_code, answer.json()["error"][:23]) == (415, "send a picture's file a")


def test_a_server_without_an_extractor_takes_no_picture(scenes_index):
    with TestClient(SearchServer(Searcher(Index(scenes_index)), Limits()).app()) as client:
        answer = send(client, b"")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert "--extractor" in answer.json()["error"]
        assert client.get("/api/info").json()["max_picture_bytes"] == 0


def test_a_decoder_that_takes_too_long_is_ended():
    started = time.monotonic()
    with pytest.raises(UnreadableError, match=r"not read within 0\.01 seconds"):
        read_picture_apart(photograph("coffee.png").read_bytes(), max_pixels=10**7, seconds=0.01)
    assert time.monotonic() - started < 5


def test_a_decoder_that_takes_too_much_memory_is_refused_it():
    deep = written(Image.new("I;16", (3_000, 3_000)), "PNG")  # scaled in float64, several times
    with pytest.raises(UnreadableError, match=r"MemoryError|allocate"):
        read_picture_apart(deep, max_pixels=10**7, seconds=20, max_memory=1 << 28)
    assert read_picture_apart(deep, max_pixels=10**7, seconds=20).size == (3_000, 3_000)


def test_uploads_that_never_end_are_closed_keep_no_search_waiting_and_give_their_slots_back(address, server):
    host = urlsplit(address).netloc
    held = []
    for _ in range(8):
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.putrequest("POST", "/api/similar")
        for name, value in (*TYPE.items(), ("content-length", "1000000")):
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"\xff\xd8\xff")
        held.append(connection)
    asked = http.client.HTTPConnection(host, timeout=30)
    asked.request("GET", "/api/search?q=a+red+star")
    assert asked.getresponse().status == 200
    answers = []
    for connection in held:
        try:
            answers.append(connection.getresponse().status)
        except (http.client.RemoteDisconnected, ConnectionResetError):
            answers.append(None)
        connection.close()
    assert sorted(answers, key=str) == [503] * 4 + [None] * 4
    photo = photograph("coffee.png").read_bytes()
    asked.close()
    asked.request("POST", "/api/similar", body=photo, headers=TYPE)
    assert asked.getresponse().status == 200
    asked.close()


def cards(browser):
    return [card.text.split("\n") for card in browser.find_elements(By.CSS_SELECTOR, "#results .card")]


def wait(browser, condition):
    return WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def test_a_chosen_picture_finds_its_like_and_opens_with_captions_and_boxes(address, browser):
    browser.get(address)
    choose, file = browser.find_element(By.ID, "choose"), browser.find_element(By.ID, "file")
    wait(browser, lambda _: choose.is_displayed())
    file.send_keys(str(photograph("coffee.png")))
    found = wait(browser, cards)
    assert found[0] == ["coffee.png", "your picture"]
    assert found[1][0] == "coffee.png"  # the index's own
    assert len(found) == 6
    assert "5 pictures like coffee.png" in browser.find_element(By.ID, "status").text
    browser.find_element(By.CSS_SELECTOR, "#results .card").click()
    captions = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#captions button"))
    picture = browser.find_element(By.ID, "details-picture")
    wait(browser, lambda _: picture.get_property("naturalWidth") == 600)
    captions[0].click()
    assert browser.find_elements(By.CSS_SELECTOR, "#boxes .box")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(browser, lambda b: "picture=" not in b.current_url)
    browser.find_elements(By.CSS_SELECTOR, "#results .card")[2].click()
    name = browser.find_element(By.ID, "details-title").text
    browser.find_element(By.ID, "similar").click()
    wait(browser, lambda b: f"4 pictures like {name.rpartition('.')[0]}" in b.find_element(By.ID, "status").text)
    browser.back()
    browser.back()
    wait(browser, lambda b: cards(b) == found)
    browser.refresh()
    wait(browser, lambda b: "kept nowhere" in b.find_element(By.ID, "status").text)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


DROP = """
const moved = new DataTransfer();
moved.items.add(new File([Uint8Array.from(arguments[0])], arguments[1]));
for (const kind of ["dragover", "drop"])
  document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true }));
"""


def test_a_dropped_picture_is_asked_with_and_what_is_none_is_told(address, browser):
    browser.get(address)
    wait(browser, lambda b: b.find_element(By.ID, "choose").is_displayed())
    status = browser.find_element(By.ID, "status")
    browser.execute_script(DROP, list(b"<img src=x onerror=alert(1)>"), "<b>evil</b>.jpg")
    wait(browser, lambda _: "not a picture" in status.text)
    assert "error" in status.get_attribute("class")
    browser.execute_script(DROP, [0] * ((1 << 20) + 1), "large.jpg")
    wait(browser, lambda _: "large.jpg has 1,048,577 bytes; at most 1,048,576 are taken" in status.text)
    browser.execute_script(DROP, list(photograph("rocket.jpg").read_bytes()), "a <b>rocket</b>.jpg")
    wait(browser, lambda b: cards(b) and cards(b)[0] == ["a <b>rocket</b>.jpg", "your picture"])
