"""Trains a small CNN to read handwritten digits: scikit-learn's 1,797 real 8x8 images, nothing to download.

Launch, from anywhere the project is installed with its `train` extra:

    stoker submit agent/training/digits.sh           # under Stoker
    sbatch agent/training/digits.sh                  # under Slurm
    python -I -m agent.training.digits --epochs 30   # by hand

It runs on the first GPU it is given and on the CPU where there is none. The job folder (`jobdir`) holds metrics,
progress, checkpoints and the result. Stopped by a `stop` file or SIGTERM it saves and ends; started again in the same
folder it goes on. The order of the batches is a function of seed and epoch, dropout one of seed and step, so a stopped
and resumed run ends with the same weights as one that was left alone.

Shapes: B batch, N images of a split, C channels, H height, W width, K classes (10).
"""

from __future__ import annotations

import argparse
import gzip
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.training.jobdir import JobDir

TEST_EVERY = 5
"""360 of the 1,797 images are held out, with the classes in proportion; no decision is taken on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the outcome, beside the data."""

    epochs: int
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images scaled to 0..1 and their digits, on the training device."""

    x_NCHW: Tensor
    y_N: Tensor


class DigitsNet(nn.Module):
    """Two 3x3 convolutions at full size, one pooling step, two linear layers: 38,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Unnormalised log-probabilities, shape BK."""
        logits_BK: Tensor = self.head(self.features(x_BCHW))
        return logits_BK


class Trainer:
    """A model, its optimiser and how far they have come."""

    def __init__(self, settings: Settings, train: Split, test: Split, job: JobDir) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.train, self.test, self.job = settings, train, test, job
        self.model = DigitsNet().to(train.x_NCHW.device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate)
        self.step = 0
        self.steps_per_epoch = -(-len(train.y_N) // settings.batch)
        self.total = self.steps_per_epoch * settings.epochs

    def resume(self) -> None:
        """Go on from the newest checkpoint of the job folder, if there is one."""
        found = self.job.resume()
        if found is None:
            return
        self.step, folder = found
        state = torch.load(folder / "state.pt", map_location=self.train.x_NCHW.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        print(f"resumed at step {self.step} of {self.total}")

    def save(self) -> None:
        """Checkpoint the present step."""
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        self.job.save(self.step, lambda folder: torch.save(state, folder / "state.pt"))

    def run(self, stop: threading.Event) -> bool:
        """Train to the end, or to the step after which a stop was asked for. Returns whether it was finished."""
        while self.step < self.total:
            began, losses = time.monotonic(), []
            for x_BCHW, y_B in self._rest_of_epoch():
                losses.append(self._learn(x_BCHW, y_B))
                step_s = (time.monotonic() - began) / len(losses)
                self.job.progress(self.step, self.total, round(step_s, 5), "train")
                if stop.is_set() or self.job.stop_requested():
                    self.save()
                    return False
            self._report(sum(losses) / len(losses), time.monotonic() - began)
            self.save()
        return True

    def accuracy(self, split: Split) -> float:
        """Share of a split's images read correctly."""
        self.model.eval()
        with torch.inference_mode():
            guess_N = self.model(split.x_NCHW).argmax(dim=1)
        self.model.train()
        return float((guess_N == split.y_N).float().mean())

    def _rest_of_epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the present epoch that are still to come."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        order_N = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.train.y_N))
        for start in range(done * self.settings.batch, len(order_N), self.settings.batch):
            pick_B = torch.from_numpy(order_N[start : start + self.settings.batch]).to(self.train.y_N.device)
            yield self.train.x_NCHW[pick_B], self.train.y_N[pick_B]

    def _learn(self, x_BCHW: Tensor, y_B: Tensor) -> float:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        loss = functional.cross_entropy(self.model(x_BCHW), y_B)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return loss.item()

    def _report(self, loss: float, took_s: float) -> None:
        epoch, accuracy = self.step // self.steps_per_epoch, self.accuracy(self.test)
        self.job.metric(self.step, epoch=epoch, loss=round(loss, 5), test_accuracy=round(accuracy, 5))
        print(f"epoch {epoch}/{self.settings.epochs}  loss {loss:.4f}  test accuracy {accuracy:.4f}  {took_s:.2f} s")


def load_splits(seed: int, device: torch.device) -> tuple[Split, Split]:
    """The training and the held-out images."""
    x_NHW, y_N = _digits()
    order_N = np.lexsort((np.random.default_rng(seed).random(len(y_N)), y_N))  # by class, at random within it
    held_out_N = np.zeros(len(y_N), dtype=bool)
    held_out_N[order_N[::TEST_EVERY]] = True
    train, test = (
        Split(x_NCHW=torch.from_numpy(x_NHW[each][:, None]).to(device), y_N=torch.from_numpy(y_N[each]).to(device))
        for each in (~held_out_N, held_out_N)
    )
    return train, test


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The images, scaled to 0..1, and the digits. Read as a file: importing scikit-learn takes longer than an epoch."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise SystemExit("scikit-learn, which brings the images, is not installed; install the extra: train")
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64)


def main() -> int:
    """Train, and leave the result in the job folder. Exit status 0 also for a clean stop; `result.json` tells which."""
    settings = _parse_arguments()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with JobDir.from_environment(dict(os.environ)) as job:
        train, test = load_splits(settings.seed, device)
        trainer = Trainer(settings, train, test, job)
        images = f"{len(train.y_N)} training and {len(test.y_N)} test images"
        print(f"digits: {images}, {settings.epochs} epochs on {_name(device)}")
        trainer.resume()
        finished = trainer.run(stop)
        accuracy = trainer.accuracy(test)
        job.result("done" if finished else "stopped", step=trainer.step, metrics={"test_accuracy": round(accuracy, 5)})
        verdict = "done" if finished else f"stopped at step {trainer.step} of {trainer.total}"
        print(f"{verdict}: test accuracy {accuracy:.4f}")
    return 0


def _parse_arguments() -> Settings:
    parser = argparse.ArgumentParser(prog="python -m agent.training.digits", description="Train a small CNN on digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.epochs < 1 or given.seed < 0:
        parser.error("--epochs must be at least 1 and --seed at least 0")
    return Settings(epochs=given.epochs, seed=given.seed)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


if __name__ == "__main__":
    raise SystemExit(main())
