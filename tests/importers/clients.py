"""Neptune's own clients, offline, in a process of their own: `python clients.py CLIENT FOLDER [kill]`."""

import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

POINTS = 400
BEGAN = 1_740_830_400


def loss(step):
    return 1 / (step + 1)


def scale(folder: Path, kill) -> None:
    from neptune_scale import Run
    from neptune_scale.types import File, Histogram

    run = Run(
        project="team/flights",
        run_id="run-1",
        mode="offline",
        log_directory=str(folder / "scale"),
        experiment_name="exp",
        fork_run_id="run-0",
        fork_step=2,
        enable_console_log_capture=False,
    )
    run.log_configs(
        {"lr": 0.1, "depth": 6, "name": "gbt", "deep": True, "until": datetime(2025, 3, 1, tzinfo=UTC)}
    )
    run.add_tags(["a", "b"])
    run.remove_tags(["a"])
    run.log_string_series({"out": "hello\nworld"}, step=1)
    run.log_histograms({"weights": Histogram(bin_edges=[0, 1, 2.5], counts=[3, 4])}, step=1)
    run.assign_files({"note": b"a note"})
    run.log_files({"pictures": File(b"\x89PNG", mime_type="image/png")}, step=3.25)
    run.log_metrics({"ahead": 9.0}, step=7, preview=True, preview_completion=0.5)
    for step in range(POINTS):
        when = datetime.fromtimestamp(BEGAN + step, UTC)
        run.log_metrics({"loss": loss(step), "acc": step / 2}, step=step / 4, timestamp=when)
    kill()
    run.close()


def classic(folder: Path, kill) -> None:
    import neptune
    from neptune.types import File
    from PIL import Image

    run = neptune.init_run(mode="offline", name="trees", capture_hardware_metrics=False, source_files=[])
    run["lr"], run["depth"], run["name"], run["deep"] = 0.1, 6, "gbt", True
    run["until"] = datetime(2025, 3, 1, tzinfo=UTC)
    run["sys/tags"].add(["a", "b"])
    run["sys/tags"].remove("a")
    run["out"].append("hello\nworld")
    run["note"].upload(File.from_content("a note"))
    run["picture"].append(File.as_image(Image.new("RGB", (2, 2))), step=2)
    run["code"].upload_files([__file__])
    run["data"].track_files(__file__)
    for step in range(POINTS):
        run["loss"].append(loss(step), step=step / 4, timestamp=BEGAN + step)
        run["acc"].append(step / 2)
    kill()
    run.stop()


if __name__ == "__main__":
    client, folder = sys.argv[1], Path(sys.argv[2])
    os.chdir(folder)
    {"scale": scale, "classic": classic}[client](
        folder, lambda: os.kill(os.getpid(), signal.SIGKILL) if "kill" in sys.argv else None
    )
