import re

import pytest
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from starlette.testclient import TestClient

from aladin_jax.pretrained import load
from aladin_jax.search import openapi
from aladin_jax.search.index import Index
from aladin_jax.search.indexing import Contents, create_index
from aladin_jax.search.inputs import Limits
from aladin_jax.search.query import Searcher
from aladin_jax.search.serve import SearchServer
from benchmarks.generated_collection import write_collection
from tests.search.conftest import SCENES_SETTINGS
from tests.search.serving import serving_page

QUERY = "a red square above a blue circle"


@pytest.fixture(scope="module")
def server(scenes_index):
    return SearchServer(Searcher(Index(scenes_index)), Limits(max_depth=50, in_flight=2, workers=1, seconds=20.0))


@pytest.fixture(scope="module")
def client(server):
    with TestClient(server.app(["testserver"])) as client:
        yield client


@pytest.fixture(scope="module")
def address(scenes_index):
    """A server on a free port of this machine, as `serve` runs it."""
    limits = Limits(max_depth=110)  # less than there are captions
    with serving_page(SearchServer(Searcher(Index(scenes_index)), limits).app(["127.0.0.1"]), limits) as address:
        yield address


def wait(browser, condition):
    return WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def test_the_page_finds_pictures_explains_them_and_gives_captions_by_keyboard_alone(address, browser):
    browser.get(address)
    browser.switch_to.active_element.send_keys(QUERY, Keys.ENTER)
    cards = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))
    assert len(cards) == 24
    assert re.search(r"24 pictures in [\d.]+ ms", browser.find_element(By.ID, "status").text)
    picture = cards[0].find_element(By.TAG_NAME, "img")
    wait(browser, lambda _: picture.get_property("naturalWidth"))
    cards[0].send_keys(Keys.ENTER)
    details = browser.find_element(By.ID, "details")
    assert details.is_displayed()
    words = [word.text.split()[0] for word in browser.find_elements(By.CSS_SELECTOR, "#words button")]
    assert words == QUERY.split()
    boxes = browser.find_elements(By.CSS_SELECTOR, "#boxes .box")
    assert boxes
    assert all(box.size["width"] > 2 for box in boxes)
    browser.find_element(By.ID, "ask").send_keys(Keys.ENTER)
    captions = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#captions button"))
    assert len(captions) == 10
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(browser, lambda _: not details.is_displayed())
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_tells_of_an_empty_query_and_of_an_error(address, browser):
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys(Keys.ENTER)
    status = browser.find_element(By.ID, "status")
    assert status.text.startswith("Say what the picture shows")
    browser.execute_script("document.getElementById('query').removeAttribute('maxlength')")
    browser.execute_script("document.getElementById('query').value = 'x'.repeat(1001)")
    browser.find_element(By.ID, "query").send_keys(Keys.ENTER)
    wait(browser, lambda _: "1001 characters" in status.text)
    assert "error" in status.get_attribute("class")


def test_moving_the_slider_searches_again_at_that_depth(address, browser):
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))
    browser.find_element(By.ID, "depth").send_keys(Keys.HOME)
    wait(browser, lambda b: ", 0 candidates" in b.find_element(By.ID, "status").text)
    card = browser.find_element(By.CSS_SELECTOR, "#results .card")
    assert "alignment" not in card.text


def test_the_slider_ends_at_the_depth_that_the_server_takes(address, browser):
    browser.get(f"{address}?q=a+red+square")
    wait(browser, results)
    browser.find_element(By.ID, "depth").send_keys(Keys.END)
    assert browser.find_element(By.ID, "depth-value").text == "100"


def test_on_a_phone_nothing_is_wider_than_the_screen(address, browser):
    size = browser.get_window_size()
    browser.set_window_size(500, 900)  # Chromium's narrowest window
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    browser.set_window_size(size["width"], size["height"])


def test_in_the_dark_the_page_is_dark_and_can_be_read(address, browser):
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    card = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))[0]
    card.click()
    page = luminance(browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert page < 0.02
    for place in ("h1", "#status", "#details-title", "#details-scores"):
        text = luminance(browser.find_element(By.CSS_SELECTOR, place).value_of_css_property("color"))
        assert (text + 0.05) / (page + 0.05) > 4.5, place  # WCAG's contrast of readable text
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    background = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert luminance(background) == 1


def luminance(colour):
    """WCAG's relative luminance of a CSS colour."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_api_answers_as_the_searcher_does(client, scenes_index):
    answer = client.get("/api/search", params={"q": QUERY, "k": 5, "rerank": "all"}).json()
    hits = Searcher(Index(scenes_index)).find_images(QUERY, k=5, rerank="all").hits
    assert [found["id"] for found in answer["results"]] == [hit.id for hit in hits]
    assert answer["results"][0]["why"] == [word.to_json() for word in hits[0].why]
    picture = client.get(f"/pictures/{hits[0].id}")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content[:2] == b"\xff\xd8"
    captions = client.get("/api/captions", params={"id": hits[0].id, "rerank": 20}).json()
    assert len(captions["results"]) == 10


def test_every_answer_has_a_strict_content_security_policy(client):
    for path in ("/", "/page.js", "/api/info", "/api/search", "/nowhere", "/metrics"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/search", 400),
        ("/api/search?q=" + "x" * 1001, 400),
        ("/api/search?q=a&k=0", 400),
        ("/api/search?q=a&k=101", 400),
        ("/api/search?q=a&k=1e2", 400),
        ("/api/search?q=a&rerank=-1", 400),
        ("/api/captions?id=test-00000&rerank=all", 400),  # 120 captions, at most 50 are re-ranked here
        ("/api/captions?id=nobody", 404),
        ("/api/images?limit=101", 400),
        ("/pictures/..%2f..%2fmanifest.json", 404),
        ("/pictures/%00", 404),
        ("/../manifest.json", 404),
        ("/page/../serve.py", 404),
    ],
)
def test_what_is_outside_its_bounds_is_refused_in_json(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_searches_beyond_those_in_flight_get_503_and_slots_come_back(server, client):
    for _ in range(2):
        assert server._searches.slots.acquire(blocking=False)
    answer = client.get("/api/search", params={"q": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    for _ in range(2):
        server._searches.slots.release()
    for _ in range(5):
        assert client.get("/api/search", params={"q": "a"}).status_code == 200


def test_a_search_that_takes_too_long_is_answered_with_504(scenes_index):
    server = SearchServer(Searcher(Index(scenes_index)), Limits(seconds=0.0))
    with TestClient(server.app()) as client:
        assert client.get("/api/search", params={"q": QUERY, "rerank": "all"}).status_code == 504


def test_another_host_name_is_refused(client):
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400


def test_metrics_count_searches_by_status(client):
    client.get("/api/search", params={"q": "a star"})
    client.get("/api/search", params={"q": ""})
    text = client.get("/metrics").text
    assert re.search(r'aladin_search_requests_total\{kind="search",status="200"\} [1-9]', text)
    assert re.search(r'aladin_search_requests_total\{kind="search",status="400"\} [1-9]', text)
    assert 'aladin_search_seconds_bucket{kind="search",le="+Inf",stage="rerank"}' in text
    assert "aladin_search_in_flight 0.0" in text


def test_the_description_names_every_route_of_the_api(server, client):
    described = client.get("/api/openapi.json").json()
    assert described == openapi.DESCRIPTION
    routes = {route.path for route in server.app().routes if route.path.startswith("/api/")}
    assert set(described["paths"]) == routes - {"/api/openapi.json"}


def results(browser):
    return [card.text.split("\n")[0] for card in browser.find_elements(By.CSS_SELECTOR, "#results .card")]


def test_before_the_first_search_the_collections_own_captions_can_be_asked_with(address, browser, scenes_index):
    browser.get(address)
    examples = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#examples button"))
    index = Index(scenes_index)
    captions = {index.caption(row) for row in range(len(index.captions))}
    assert 1 < len(examples) <= 6
    assert {example.text for example in examples} <= captions
    text = examples[1].text
    examples[1].click()
    wait(browser, results)
    assert browser.find_element(By.ID, "query").get_property("value") == text
    assert not browser.find_element(By.ID, "examples").is_displayed()


def test_a_link_holds_the_query_its_depth_and_the_open_picture_and_back_goes_one_step_back(address, browser):
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    first = wait(browser, results)
    browser.find_element(By.ID, "depth").send_keys(Keys.HOME)
    wait(browser, lambda b: ", 0 candidates" in b.find_element(By.ID, "status").text)
    matched = results(browser)
    browser.find_elements(By.CSS_SELECTOR, "#results .card")[3].click()
    link = browser.current_url
    details = browser.find_element(By.ID, "details")
    wait(browser, lambda _: details.is_displayed())
    words = [word.text for word in browser.find_elements(By.CSS_SELECTOR, "#words button")]
    assert words
    browser.back()
    wait(browser, lambda _: not details.is_displayed())
    assert results(browser) == matched
    browser.back()
    wait(browser, lambda b: ", 24 candidates" in b.find_element(By.ID, "status").text)
    assert results(browser) == first
    browser.back()
    wait(browser, lambda b: b.find_element(By.ID, "examples").is_displayed())
    browser.get("about:blank")
    browser.get(link)  # as whoever it is sent to
    wait(browser, lambda b: b.find_element(By.ID, "details").is_displayed())
    assert results(browser) == matched
    assert browser.find_element(By.ID, "details-title").text == matched[3]
    assert [word.text for word in browser.find_elements(By.CSS_SELECTOR, "#words button")] == words
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(browser, lambda b: "picture=" not in b.current_url)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_picture_can_be_seen_larger_with_its_boxes_where_they_belong(address, browser):
    browser.get(f"{address}?q=a+red+square&rerank=100")
    card = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))[0]
    card.click()
    picture, larger = browser.find_element(By.ID, "details-picture"), browser.find_element(By.ID, "larger")
    wait(browser, lambda _: picture.get_property("naturalWidth"))
    box = browser.find_element(By.CSS_SELECTOR, "#boxes .box")
    before, share = picture.size["width"], box.size["width"] / picture.size["width"]
    larger.click()
    assert picture.size["height"] > 500
    assert picture.size["width"] > before
    assert box.size["width"] / picture.size["width"] == pytest.approx(share, abs=0.03)
    larger.click()
    assert picture.size["width"] == before
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(browser, lambda b: "picture=" not in b.current_url)


def test_words_that_did_not_count_are_grey_with_the_reason(address, browser):
    browser.get(f"{address}?q=a+red+square+above+дирижабль&rerank=100")
    ignored = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#asked .ignored"))
    assert [word.text for word in ignored] == ["дирижабль"]
    assert "“дирижабль”: not in the model's vocabulary" in browser.find_element(By.ID, "asked").text
    browser.get(f"{address}?q=a+red+square+above+a+circle&rerank=100")
    wait(browser, results)
    assert not browser.find_element(By.ID, "asked").is_displayed()


def test_browsing_goes_through_all_pictures_page_by_page(address, browser, scenes_index):
    browser.get(f"{address}?browse=20")
    wait(browser, results)
    assert results(browser) == Index(scenes_index).ids[20:]
    assert "Pictures 21 to 24 of 24" in browser.find_element(By.ID, "status").text
    assert not browser.find_element(By.ID, "more").is_displayed()


def test_of_many_pictures_few_are_shown_and_any_place_can_be_gone_to(browser, tmp_path):
    """Of a vocabulary that has no word of any language, which the server starts with all the same."""
    write_collection(tmp_path / "index", images=500, captions=1, width=16, layers=1)
    limits = Limits()
    with serving_page(SearchServer(Searcher(Index(tmp_path / "index")), limits).app(), limits) as address:
        browser.get(f"{address}?browse=0")
        wait(browser, results)
        ids = results(browser)
        assert len(ids) == 48
        loaded = "return performance.getEntriesByType('resource').filter(e => e.name.includes('/pictures/')).length"
        assert browser.execute_script(loaded) <= 48
        place = browser.find_element(By.ID, "place")
        place.clear()
        place.send_keys("495", Keys.ENTER)
        wait(browser, lambda b: "Pictures 495 to 500 of 500" in b.find_element(By.ID, "status").text)
        assert len(results(browser)) == 6
        browser.back()
        wait(browser, lambda b: results(b) == ids)


def test_the_files_name_is_shown_where_the_index_knows_it(client, scenes_folder, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "of mine").mkdir(parents=True)
    for number in range(24):
        Image.new("RGB", (20, 10)).save(folder / "of mine" / f"test-{number:05d}.png")
    model = load(scenes_folder / "model", SCENES_SETTINGS)
    create_index(tmp_path / "index", model, Contents(scenes_folder / "data", "test", folder))
    searcher = Searcher(Index(tmp_path / "index"), model)
    for hit in searcher.find_images(QUERY, k=3).hits:
        assert hit.to_json(1)["file"] == f"of mine/{hit.id}.png"
    assert client.get("/api/search", params={"q": QUERY}).json()["results"][0]["file"] == ""
