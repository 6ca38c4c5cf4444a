"""Write the tables of `finetune probe` on real clips into docs/cache.md, and their pictures beside it.

`FINETUNE_REAL=DIR FINETUNE_WEIGHTS=DIR python scripts/write_probes.py`. Nothing is read that was kept before, so that
all seconds are those of computing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from finetune.report.pages.probes import probe_table

PAGE = Path(__file__).parents[1] / "docs/cache.md"
BEGIN = "<!-- the tables below are written by scripts/write_probes.py -->\n"
BLANK_END = "<!-- end of the tables -->\n"
BACKBONES = "mobilenetv2_100,tf_mobilenetv3_large_minimal_100,torchvision/squeezenet1_1"
DATA = {
    "ut_interaction": "UT-Interaction: 120 clips of 6 interactions, 20 sequences; pictures squashed to 224 px",
    "yoga_poses": "Yoga: 97 clips of 6 poses, 16 persons; pictures squashed to 224 px",
}


def main() -> None:
    """Run the probes, print them, and replace the tables of the page."""
    real, tables = Path(os.environ["FINETUNE_REAL"]), []
    for name, title in DATA.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "finetune", "probe", "folder", "--backbones", BACKBONES]
            command += [
                "--out",
                f"{folder}/probe",
                f"train.cache_dir={folder}/kept",
                "clip.fit=squash",
                "clip.size=224",
            ]
            command += [f"data.manifest={real}/data/{name}/clips.csv", "data.val=0", "data.test=0"]
            subprocess.run(command, check=True)
            found = json.loads(Path(folder, "probe/probe.json").read_text(encoding="utf-8"))
            picture = PAGE.with_name(f"probe_{name}.svg")
            picture.write_bytes(Path(folder, "probe/probe.svg").read_bytes())
        chance = found["most_frequent_class"]
        tables.append(
            f"**{title}** (majority-class baseline: {chance['top1']:.3f})\n\n{probe_table(found['probes'])}\n"
            f"![Top-1 by seconds, for each backbone and classifier]({picture.name})\n"
        )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(
        before + BEGIN + "\n" + "\n".join(tables) + "\n" + BLANK_END + rest.partition(BLANK_END)[2], encoding="utf-8"
    )


if __name__ == "__main__":
    main()
