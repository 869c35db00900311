"""How fast images are read, and how long training waits for them. Five measurements, none of them a test:

    python -m tests.benchmarks.bench_data speed               the training pipeline against bare decoding, same cores
    python -m tests.benchmarks.bench_data threads             how many threads one process can feed
    python -m tests.benchmarks.bench_data lock                how long a thread that prepares images holds up others
    python -m tests.benchmarks.bench_data listing             opening a folder of many files
    python -m tests.benchmarks.bench_data wait RUN_DIR ...    share of a finished run's updates spent waiting

``speed`` writes JPEG files of 500×375 pixels and about 100 kB, as ImageNet's are, cut from the two photographs that
come with scikit-learn. Five take turns on as many threads: the pipeline (read the file, decode, random resized crop to
224, flip, batch), ``mindspore.dataset`` with the same operations, without and with normalisation on the host,
decoding images in memory by simplejpeg, and by Pillow with its own resampling of a part to 224. Figures are images per
second of processor time, the best round of each: other work on the machine flatters none.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from train.data.augment import RandomResizedCrop, build_augmentations
from train.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, FolderSource
from train.data.images import Picture, crop_and_resize, open_image
from train.data.loader import TrainLoader
from train.data.reader import Reader
from train.data.view import View
from train.runtime import device

SIZE = (500, 375)
QUALITY = 97
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.bench_data", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed_options = commands.add_parser("speed")
    speed_options.add_argument("--images", type=int, default=256)
    speed_options.add_argument("--rounds", type=int, default=7)
    speed_options.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    commands.add_parser("lock")
    commands.add_parser("threads").add_argument("--images", type=int, default=256)
    listing_options = commands.add_parser("listing")
    listing_options.add_argument("--files", type=int, default=128_000)
    commands.add_parser("wait").add_argument("run_dirs", type=Path, nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.command == "speed":
            speed(Path(folder), options.images, options.rounds, options.workers)
        elif options.command == "lock":
            lock(Path(folder))
        elif options.command == "threads":
            threads(Path(folder), options.images)
        elif options.command == "listing":
            listing(Path(folder), options.files)
        else:
            wait(options.run_dirs)


def speed(folder: Path, images: int, rounds: int, workers: int) -> None:
    write_photographs(folder, images)
    source = FolderSource.list_folder(folder)
    encoded = [source.encoded(i) for i in range(len(source))]
    loader = pipeline(source, workers)
    mean_bytes = sum(map(len, encoded)) / len(encoded)
    print(f"{len(encoded)} JPEG files of {SIZE[0]}x{SIZE[1]}, {mean_bytes / 1000:.0f} kB on average, {workers} threads")
    measured: dict[str, Callable[[], None]] = {
        "pipeline": lambda: run_pipeline(loader),
        "mindspore.dataset": mindspore_dataset(folder, workers, normalise=False),
        "and Normalize": mindspore_dataset(folder, workers, normalise=True),
        "simplejpeg alone": lambda: on_all(simplejpeg_alone, encoded, workers),
        "Pillow": lambda: on_all(decode_and_resample, encoded, workers),
    }
    best = dict.fromkeys(measured, 0.0)
    for _ in range(rounds):
        for name, work in measured.items():
            best[name] = max(best[name], len(encoded) // BATCH * BATCH / processor_seconds(work))
    for name, images_per_second in best.items():
        print(
            f"{name:20} {images_per_second:6.0f} images/s a core, pipeline {best['pipeline'] / images_per_second:.2f}"
        )
    print(f"mean difference to Pillow's bilinear resampling: {difference_to_pillow(encoded):.2f} of 255")


def difference_to_pillow(encoded: list[bytes]) -> float:
    """Return by how much our resampling of random crops differs from Pillow's, whose filter is as wide as the step."""
    crop, differences = RandomResizedCrop(), []
    for number, data in enumerate(encoded):
        box = crop.box(*SIZE, np.random.default_rng(number))
        ours = crop_and_resize(decode(data), box, 224, channels=3)
        theirs = decode(data).resize((224, 224), Image.Resampling.BILINEAR, box=box)
        differences.append(np.abs(ours.astype(float) - np.asarray(theirs)).mean())
    return float(np.mean(differences))


def pipeline(source: FolderSource, workers: int) -> TrainLoader:
    reader = Reader(source, View(224, augmentations=build_augmentations(["random_resized_crop", "flip"])))
    return TrainLoader(reader, global_batch=BATCH, seed=1, workers=workers)


def run_pipeline(loader: TrainLoader) -> None:
    for _ in loader.batches(0, loader.steps_per_epoch):
        pass


def mindspore_dataset(folder: Path, workers: int, *, normalise: bool) -> Callable[[], None]:
    """Return a function that reads an epoch of the same images with the library's own pipeline, all of it in C++."""
    device.set_environment_defaults("cpu")
    import mindspore.dataset as ds
    from mindspore.dataset import vision

    ds.config.set_enable_autotune(False)
    workers = min(workers, os.cpu_count() or 1)  # it refuses more
    data = ds.ImageFolderDataset(str(folder), num_parallel_workers=workers, shuffle=True)
    operations = [vision.RandomCropDecodeResize(224), vision.RandomHorizontalFlip()]
    if normalise:
        operations.append(vision.Normalize([255 * mean for mean in IMAGENET_MEAN], [255 * std for std in IMAGENET_STD]))
    data = data.map([*operations, vision.HWC2CHW()], "image", num_parallel_workers=workers)
    data = data.batch(BATCH, drop_remainder=True)

    def epoch() -> None:
        for _ in data.create_tuple_iterator(num_epochs=1, output_numpy=True):
            pass

    return epoch


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def simplejpeg_alone(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB")


def decode_and_resample(data: bytes) -> Image.Image:
    # 0.45 of the area, about what a random resized crop takes on average.
    return decode(data).resize((224, 224), Image.Resampling.BILINEAR, box=(80, 60, 420, 310))


def on_all(work: Callable[[bytes], object], encoded: list[bytes], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, encoded[: len(encoded) // BATCH * BATCH]):
            pass


def processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def write_photographs(folder: Path, count: int) -> None:
    """Write ``count`` files in two classes: random parts of the photographs, at random scales."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for label, photograph in enumerate(photographs):
        (folder / str(label)).mkdir()
        for number in range(count // 2):
            share = rng.uniform(0.6, 1.0)
            width, height = share * photograph.width, share * photograph.width * SIZE[1] / SIZE[0]
            height = min(height, photograph.height)
            left, upper = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
            part = photograph.resize(SIZE, Image.Resampling.LANCZOS, box=(left, upper, left + width, upper + height))
            part.save(folder / str(label) / f"{number:05}.jpg", "JPEG", quality=QUALITY)


def prepared(data: bytes, view: View) -> np.ndarray:
    """One image as training sees it: cut, resized and augmented."""
    rng = np.random.default_rng(0)
    (pixels,), _ = view.cut([Picture(open_image(data), view.rules)], [], 3, rng)
    for augmentation in view.augmentations:
        pixels = augmentation(pixels, rng)
    return pixels


def lock(folder: Path) -> None:
    """Print how late a thread wakes from 0.2 ms of sleep while another prepares images: what holding the lock costs."""
    device.set_environment_defaults("cpu")
    from mindspore.dataset import vision

    write_photographs(folder, 2)
    data = FolderSource.list_folder(folder).encoded(0)
    eager = vision.Decode()
    view = View(224, augmentations=build_augmentations(["random_resized_crop", "flip"]))
    for name, work in (
        ("simplejpeg, then OpenCV", lambda: prepared(data, view)),
        ("mindspore.dataset.vision", lambda: eager(np.frombuffer(data, np.uint8))),
    ):
        done = threading.Event()
        thread = threading.Thread(target=lambda work=work, done=done: [work() for _ in iter(done.is_set, True)])
        thread.start()
        late = []
        for _ in range(300):
            began = time.perf_counter()
            time.sleep(2e-4)
            late.append(time.perf_counter() - began - 2e-4)
        done.set()
        thread.join()
        print(f"{name:25} {1e3 * float(np.median(late)):.2f} ms late (median)")


WITHOUT_LOCK = ((simplejpeg, "decode_jpeg"), (cv2, "resize"), (cv2, "cvtColor"), (cv2, "split"))
"""What lets go of Python's lock while it works on an image; reading a file does too, and is left out."""


def threads(folder: Path, images: int) -> None:
    """Print images per second of 1, 2 and 4 threads, and how many threads of one process Python's lock lets work."""
    write_photographs(folder, images)
    source = FolderSource.list_folder(folder)
    for workers in (1, 2, 4):
        loader, began = pipeline(source, workers), time.perf_counter()
        run_pipeline(loader)
        print(f"{workers} threads: {images // BATCH * BATCH / (time.perf_counter() - began):.0f} images/s")
    free = [0.0]
    for module, name in WITHOUT_LOCK:
        setattr(module, name, timed(getattr(module, name), free))
    seconds = processor_seconds(lambda: run_pipeline(pipeline(source, 1))) / (images // BATCH * BATCH)
    held = seconds - free[0] / (images // BATCH * BATCH)
    print(f"an image takes {1e3 * seconds:.2f} ms of a core, and the lock for at most {1e3 * held:.2f} ms of them:")
    print(f"{seconds / held:.0f} threads keep it busy; 24 would make {min(24 / seconds, 1 / held):.0f} images/s")


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds[0] += time.thread_time() - began

    return call


def listing(folder: Path, files: int) -> None:
    """Open a folder of 1,000 classes and empty files: names only, as many as ``files``."""
    for label in range(1000):
        (folder / f"n{label:08}").mkdir()
        for number in range(files // 1000):
            (folder / f"n{label:08}" / f"n{label:08}_{number}.JPEG").touch()
    began = time.perf_counter()
    source = FolderSource.list_folder(folder)
    listed = time.perf_counter()
    source.fingerprint()
    print(
        f"{len(source)} files in {source.num_classes} classes: listed in {listed - began:.2f} s, fingerprint in "
        f"{time.perf_counter() - listed:.2f} s, {(source.names.nbytes + source.labels.nbytes) / 2**20:.1f} MiB held"
    )


def wait(run_dirs: list[Path]) -> None:
    """Print what share of all updates but the first (which compiles) went into waiting for data on rank 0."""
    for run_dir in run_dirs:
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "perf/data_wait" in row][1:]
        # perf/data_wait = waiting / (waiting + step), so waiting follows from both.
        waiting = [row["perf/step_ms"] * row["perf/data_wait"] / (1 - row["perf/data_wait"]) for row in rows]
        whole = sum(waiting) + sum(row["perf/step_ms"] for row in rows)
        print(f"{run_dir}: {sum(waiting) / whole:.2%} of {len(rows)} updates, {whole / len(rows):.0f} ms each")


if __name__ == "__main__":
    main()
