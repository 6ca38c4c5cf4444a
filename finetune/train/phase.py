"""Get a model ready to train: once for a run, and again at the start and end of each phase."""

from collections.abc import Callable
from functools import partial

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer

from finetune.data.manifest import Manifest
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.lora import merge_lora
from finetune.recipe.schema import Recipe, Schedule
from finetune.runtime.device import resolve_device
from finetune.train.distributed import refuse_sharding, with_sync_batch_norm
from finetune.train.loss.objective import build_objective
from finetune.train.optim.ema import Ema
from finetune.train.optim.l2_sp import L2SPPenalty
from finetune.train.optim.optimizer import build_optimizer, transfer_optimizer_state
from finetune.train.phase_data import cacheable_part
from finetune.train.step import TrainSetup, TrainState
from finetune.video.dataset import draw_seed


def build_setup(
    model: VideoClassifier, manifest: Manifest, recipe: Recipe, *, precision: str, is_trial: bool = False
) -> TrainSetup:
    """Set up what all phases of a run share, and move the model to its device.

    `manifest` has only rows that can be read. In a trial, each process works alone and the model is not compiled.
    """
    train, device = recipe.train, resolve_device(recipe.train.device)
    AcceleratorState._reset_state()  # a run before this one may have had another precision
    uses_all_layers = model.sharing is None or model.sharing.reads_last_features
    accelerator = Accelerator(
        mixed_precision=precision.replace("fp32", "no"),
        cpu=device.type == "cpu",
        log_with=list(train.trackers) or None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not uses_all_layers)],
    )
    refuse_sharding(accelerator)
    share = (0, 1) if is_trial else (accelerator.process_index, accelerator.num_processes)
    model.to(accelerator.device)
    if train.sync_batch_norm and not is_trial:
        model = with_sync_batch_norm(model, accelerator)
    model.consensus, model.multilabel = recipe.evaluate.consensus, recipe.data.multilabel
    model.checkpointing = train.activation_checkpointing
    if train.compile and not is_trial:
        model.backbone.net.compile()
    assert not isinstance(recipe.phases, Schedule)
    return TrainSetup(
        model=model,
        recipe=recipe,
        phases=tuple(phase.with_train_defaults(train) for phase in recipe.phases),
        precision=precision,
        accelerator=accelerator,
        share=share,
        objective=build_objective(model, manifest, recipe, partial(_sum_over_processes, accelerator, share[1])),
        ema=Ema(train.ema),
        l2_sp=L2SPPenalty(),
    )


def _sum_over_processes(accelerator: Accelerator, processes: int, values: Tensor) -> Tensor:
    """The sum of a tensor of any shape, on the CPU, over all processes."""
    if processes == 1:
        return values
    return accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()


def start_phase(
    setup: TrainSetup,
    index: int,
    *,
    previous: Optimizer | None = None,
    print_line: Callable[[str], None] = lambda text: None,
) -> TrainState:
    """Begin phase `index` in the model (`begin_phase` freezes the rest), and build its optimizer and frozen part.

    `previous` is the optimizer of the phase before, whose state is kept with `keep_optimizer_state`.
    """
    model, accelerator, phase = setup.model, setup.accelerator, setup.phases[index]
    trainable, groups = begin_phase(model, phase, seed=draw_seed(setup.recipe.seed, 0, index, 0))
    frozen = cacheable_part(model, setup.recipe, setup.precision, print_line)
    setup.l2_sp.start_phase(phase.l2_sp or 0.0, groups)
    peak_lrs = [group["lr"] for group in groups]
    optimizer = build_optimizer(str(phase.optimizer), groups)
    # Wrapped again in each phase: the gradients of a stage that is unfrozen after wrapping would not be averaged.
    if setup.share[1] == accelerator.num_processes:
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    else:
        wrapped, optimizer = model, accelerator.prepare_optimizer(optimizer)
    if phase.keep_optimizer_state and previous is not None:
        transfer_optimizer_state(previous, optimizer.optimizer)
    wrapped.train()
    setup.ema.start_phase(model)
    return TrainState(setup, phase, trainable, groups, peak_lrs, frozen, wrapped, optimizer)


def end_phase(setup: TrainSetup) -> None:
    """Unwrap the model, and merge LoRA factors into its weights."""
    setup.accelerator.unwrap_model(setup.model, keep_fp32_wrapper=False)
    merge_lora(setup.model)
    setup.accelerator.free_memory()
