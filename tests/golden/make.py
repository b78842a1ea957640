"""Make the golden experiment of the present format: python tests/golden/make.py

Run once for each version of the format, and commit what it writes: files of old versions must
stay readable for ever, so they are never made anew.
"""

import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from known_episode import KnownEpisode  # noqa: E402  (needs the path above)

from shardwriter import DataExporter  # noqa: E402  (needs the path above)
from shardwriter.files.layout import FORMAT_VERSION  # noqa: E402  (needs the path above)


def main() -> None:
    target = HERE / f"format_{FORMAT_VERSION}"
    with tempfile.TemporaryDirectory() as place:
        with DataExporter(
            "golden", place, progress=False, neural_sampling_rate=3, chunk_size=25, seed=1
        ) as exporter:
            exporter.save_config({"learning_rate": 1e-3, "layers": [1, 2], "name": "grün"})
            exporter.save_metadata({"animal": "mouse"})
            exporter.save_network_structure(
                {"ids": list(range(12))}, {"sources": [0, 1], "targets": [1, 2]}
            )
            with exporter.start_episode(3) as episode:
                KnownEpisode(3).log(episode)
                KnownEpisode(3).end(episode)
        for name in ("experiment_data.h5", "shards/episode_0003.h5"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(exporter.output_dir / name, target / name)


if __name__ == "__main__":
    main()
