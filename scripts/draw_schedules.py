"""Draw docs/schedules.svg: which stages each built-in schedule lets learn in which epoch, and at which rate.

python scripts/draw_schedules.py > docs/schedules.svg
"""

import math

from finetune.model.freezing.selectors import stages_from
from finetune.recipe.phase_presets import HEAD_STAGES, resolve_phases
from finetune.recipe.schema import Phase, Schedule

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "temporal", "head")
DRAWN = ("head_only", "full", "lp_ft", "head_then_all", "gradual", "surgical:layer3", "bitfit")
CELL, GAP, LEFT, TOP, COLUMNS = 18, 2, 66, 34, 2
EPOCHS = 12
PANEL_WIDTH = LEFT + EPOCHS * (CELL + GAP) + 34
PANEL_HEIGHT = TOP + len(STAGES) * (CELL + GAP) + 34
STYLE = """text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 14px }
.small { font-size: 11px; fill: #57606a } .frozen { fill: #d0d7de; fill-opacity: .45 } .learns { fill: #0969da }
.biases { fill: #8250df }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #8b949e } .frozen { fill: #6e7681 }
.learns { fill: #58a6ff } .biases { fill: #d2a8ff } }"""


def drawing() -> str:
    """The whole picture, as SVG text."""
    rows = -(-len(DRAWN) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT
    panels = [
        f'<g transform="translate({index % COLUMNS * PANEL_WIDTH} {index // COLUMNS * PANEL_HEIGHT})">{panel(name)}</g>'
        for index, name in enumerate(DRAWN)
    ]
    legend = _legend(PANEL_WIDTH + LEFT, (rows - 1) * PANEL_HEIGHT + TOP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="Stages that learn in each epoch, by schedule">\n<style>{STYLE}</style>\n'
        + "\n".join([*panels, legend])
        + "\n</svg>\n"
    )


def panel(name: str) -> str:
    """One schedule: a row for each stage, the head on top; a column for each epoch."""
    plan = Schedule(schedule=name, epochs=EPOCHS, epochs_per_stage=2)
    cells = [f'<text class="title" x="{LEFT}" y="18">{name}</text>']
    for row, stage in enumerate(reversed(STAGES)):
        y = TOP + row * (CELL + GAP)
        cells.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{stage}</text>')
    epoch = 0
    for phase in resolve_phases(plan, STAGES):
        for _ in range(phase.num_epochs(1)):
            cells += [_cell(phase, stage, epoch, row) for row, stage in enumerate(reversed(STAGES))]
            epoch += 1
    bottom = TOP + len(STAGES) * (CELL + GAP) + 14
    cells.append(f'<text class="small" x="{LEFT}" y="{bottom}">epoch 1 to {epoch}</text>')
    return "".join(cells)


def _cell(phase: Phase, stage: str, epoch: int, row: int) -> str:
    x, y = LEFT + epoch * (CELL + GAP), TOP + row * (CELL + GAP)
    rate = _rate(phase, stage)
    kind = "frozen" if rate is None else "biases" if _only_biases(phase, stage) else "learns"
    # From 1e-3, the full rate, down to 1e-5: three tenths of the ink.
    opacity = "" if rate is None else f' fill-opacity="{max(0.3, 1 + 0.35 * math.log10(rate / 1e-3)):.2f}"'
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3"{opacity}/>'


def _rate(phase: Phase, stage: str) -> float | None:
    """The peak rate of a stage in a phase; None where it is frozen."""
    words = phase.unfreeze
    learning = stages_from(STAGES, words) if isinstance(words, str | float) else words
    if stage not in learning and not _only_biases(phase, stage):
        return None
    if stage in HEAD_STAGES:
        return phase.lr
    backbone = [name for name in STAGES if name not in HEAD_STAGES]
    return phase.lr * phase.backbone_lr_scale * phase.layer_decay ** (len(backbone) - backbone.index(stage))


def _only_biases(phase: Phase, stage: str) -> bool:
    return isinstance(phase.unfreeze, tuple) and "match(bias$)" in phase.unfreeze and stage not in HEAD_STAGES


def _legend(x: int, y: int) -> str:
    entries = (
        ("frozen", "", "frozen: no gradient, no activations kept"),
        ("learns", "", "learns at the full rate"),
        ("learns", ' fill-opacity="0.65"', "learns at a tenth of it"),
        ("biases", "", "its biases alone learn"),
    )
    return "".join(
        f'<rect class="{kind}" x="{x}" y="{y + 26 * row}" width="{CELL}" height="{CELL}" rx="3"{opacity}/>'
        f'<text x="{x + CELL + 8}" y="{y + 26 * row + 13}">{words}</text>'
        for row, (kind, opacity, words) in enumerate(entries)
    )


if __name__ == "__main__":
    print(drawing(), end="")
