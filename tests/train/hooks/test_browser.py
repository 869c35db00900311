"""TensorBoard's pages of two real runs in a real browser. Needs Debian's chromium and chromium-driver.

Screenshots are kept in the folder that the variable SCREENSHOTS names, if it is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import MISSING, Page, browser, wait_until_served
from tests.jobs import free_port

pytestmark = [
    pytest.mark.msrun,
    pytest.mark.skipif(bool(MISSING), reason=f"no browser here: {', '.join(MISSING)} not found"),
]
RUNS = ("one/tensorboard", "two/tensorboard")


@pytest.fixture(scope="module")
def page(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(runs_dir: Path) -> Iterator[str]:
    address = ("127.0.0.1", free_port())
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs_dir), "--host", address[0]]
    process = subprocess.Popen([*command, f"--port={address[1]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_served("http://{}:{}/data/runs".format(*address))
        yield "http://{}:{}".format(*address)
    finally:
        process.terminate()
        process.wait(timeout=30)


PAGES = {
    "timeseries": (["train 4 cards train /loss", "/lr_planned", "val 3 cards val /loss"], "scalar-card", 4),
    "scalars&tagFilter=update": (["update/fc.weight/delta_l2", "update/fc.weight/velocity_l2"], "vz-line-chart2", 10),
    "scalars&tagFilter=ranks": (["ranks/loss/highest", "ranks/step_ms/slowest"], "vz-line-chart2", 9),
    "custom_scalars": (["planned and applied", "step_ms", "fc.weight"], "vz-line-chart2", 6),
    "images&tagFilter=comparison": (["comparison/curve/fc.weight", "comparison/norm_delta_W"], "img", 4),
    "images&tagFilter=delta_W_map": (["delta_W_map/fc.weight", "step"], "img", 4),
    "images&tagFilter=batch": (["watch/batch"], "img", 2),
    "text": (["t = 2 and t = 7 of 12", "Over the whole run", "lr_max: 0.05"], "pre", 4),
    "histograms": (["W/fc.weight", "delta_W/fc.weight"], "vz-histogram-timeseries", 4),
    "hparams": (["schedule.lr_max", "world_size", "val/top1"], "vaadin-grid", 1),
}


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, page: Page, server: str) -> None:
    words, selector, count = PAGES[name]
    page.open("about:blank")
    page.open(f"{server}/#{name}")
    page.wait_for(lambda page: page.count(selector) >= count)
    page.wait_for(lambda page: all(word in page.text() for word in (*words, *RUNS)))
    if "SCREENSHOTS" in os.environ:
        page.save(Path(os.environ["SCREENSHOTS"]) / f"{name.replace('&tagFilter=', '-')}.png")
