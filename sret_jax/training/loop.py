"""A training run from its config to its last checkpoint and its results."""

import contextlib
import logging
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from sret_jax.config import Config, photos_per_batch
from sret_jax.config.own_parts import suspects
from sret_jax.config.validation import validate
from sret_jax.data.folders import folders_and_splits, has_split, prepare_folders, prepare_single_photos
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.lookups import prepare_landmark_training
from sret_jax.datasets.sfm120k import prepare_sfm
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network, descriptor_length, init_network
from sret_jax.storage.allocator import keep_freed_memory
from sret_jax.storage.artifacts import fingerprint, lock_folder
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.refusals import plainly
from sret_jax.storage.workdir import UNTRAINED, Workdir
from sret_jax.training import parallel
from sret_jax.training.checkpoint import Checkpoint, Checkpoints, TrainedNetwork, restore
from sret_jax.training.delg_loss import init_delg_loss
from sret_jax.training.local_features import reduced_start
from sret_jax.training.losses import init_loss, init_loss_state
from sret_jax.training.metrics_log import MetricsLog, check_log
from sret_jax.training.mining import MinedBatches
from sret_jax.training.optimizer import Lengths, build_optimizer
from sret_jax.training.run_record import check_same_devices, check_same_run, describe_run, grown, write_run
from sret_jax.training.shown import Shown, shown
from sret_jax.training.step import TrainState, make_step
from sret_jax.training.stopping import Stopped, recorded
from sret_jax.training.validation import Validation, hold_out, kept
from sret_jax.training.warm_start import check_same_start, class_weights, digest_of, instances_key, start_folder
from sret_jax.training.whitening import learn_whitening, whitened_start

log = logging.getLogger(__name__)
Tree = dict[str, Any]
Measure = Callable[[TrainedNetwork, str], None]  # (network, tag of what it leaves in the workdir)


def train(config: Config, workdir: Path, measure: Measure | None = None) -> TrainState:
    """Trains until `config.train.steps`, from the newest checkpoint in `workdir` where there is one.

    Killed at any moment and called again with the same config and devices, it ends with the same bits. A finished run
    is only evaluated again. With more `config.train.steps` than before it goes on as a longer run: `learning_rate` says
    at which rate, and what follows training is done anew.

    Args:
        workdir: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `eval/` and the data cache go here.
        measure: called in the main process with the trained network, and with `config.eval.untrained` before the first
            step with that of the start; the tag is that of `Workdir`. None measures nothing.

    Returns:
        The final state, on the host.

    Raises:
        UserError: bad config or photographs, a workdir in use or of another run, a loss that is not finite, a full disk
            or device memory. What was saved before stays.
        Stopped: on SIGTERM, SIGUSR1 or SIGINT in the steps, after saving.
    """
    validate(config)
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(plainly(workdir))
        if parallel.is_main():
            stack.enter_context(lock_folder(workdir))
        parallel.connect()
        keep_freed_memory()
        photos = prepare_photos(config, workdir)
        photos, held_out = split_for_validation(config, workdir, photos)
        both = photos.fingerprint if held_out is None else fingerprint(photos.fingerprint, held_out.fingerprint)
        counts: Tree = {"photos": len(photos), "instances": len(photos.instances)}
        counts |= {"instances_key": instances_key(photos.instances)}
        counts |= {"held_out": len(held_out.instances) if held_out else 0}
        run = describe_run(config, both) | counts
        before: Lengths = check_same_run(workdir, run) if parallel.is_main() else ()
        checkpoints = stack.enter_context(Checkpoints(Workdir(workdir).checkpoints, config.train.keep))
        saved = checkpoints.latest()
        lengths = _from_main(grown(before, saved.step if saved else 0, config.train.steps))
        run |= {"lengths": lengths}
        if parallel.is_main():
            write_run(workdir, run)
        return _train(config, workdir, photos, held_out, run, checkpoints, saved, measure)


def _from_main(lengths: Lengths) -> Lengths:
    """The main process's lengths, in every process."""
    count = int(parallel.from_main(np.array(len(lengths))))
    own = lengths if parallel.is_main() else np.zeros((count, 2))
    return tuple((int(done), int(steps)) for done, steps in parallel.from_main(np.array(own, np.int32)))


def cache_folder(config: Config, workdir: Path) -> Path:
    """Where prepared photographs and their stored maps are kept."""
    return Path(config.data.cache_dir) if config.data.cache_dir else Workdir(workdir).data


def prepare_photos(config: Config, workdir: Path) -> PhotoSet:
    """The photographs to train on, prepared once in the data cache."""
    data, cache = config.data, cache_folder(config, workdir)
    if data.dataset == "synthetic":
        return prepare_synthetic(
            cache,
            instances=data.synthetic_instances,
            photos=data.synthetic_photos,
            seed=data.synthetic_seed,
            split="train",
        )
    if data.dataset == "sfm":
        return prepare_sfm(data.root, cache, split=data.split)
    if data.dataset == "landmarks":
        return prepare_landmark_training(data.root, cache)
    if data.dataset == "photos":
        return prepare_single_photos(data.root, cache)
    return prepare_folders(data.root, cache, splits=data.splits, split=data.split)


def _train(
    config: Config,
    workdir: Path,
    photos: PhotoSet,
    held_out: PhotoSet | None,
    run: Tree,
    checkpoints: Checkpoints,
    saved: Checkpoint | None,
    measure: Measure | None,
) -> TrainState:
    network = build_network(config.model, train_from=config.train.train_from, batch_stats=config.train.batch_stats)
    variables = init_network(network, config.model, jax.random.key(config.seed), config.data)
    optimizer, state = initial_state(config, variables, photos, run["lengths"])
    if start_folder(config) is not None:
        run |= {"start": digest_of(variables["params"]["backbone"])}
    tuples = config.data.sampling == "tuples"
    seen = shown(config, network, variables, photos, cache_folder(config, workdir))
    batches = MinedBatches(config, network, photos) if tuples else seen.batches(network)
    validation, before = None, jax.tree.map(np.asarray, variables)
    if held_out is not None:
        held = shown(config, network, variables, held_out, cache_folder(config, workdir))
        validation = Validation(config, network, seen, held, before, grew_at=run["lengths"][-1][0])

    if saved is None:
        if parallel.is_main():
            state.params["loss"] = class_weights(config, photos.instances, state.params["loss"])
        state.params["loss"] = parallel.from_main(state.params["loss"])
        start = learned_start(config, variables, seen) if parallel.is_main() else variables
        state.params["network"] = parallel.from_main(start["params"])
        if config.eval.untrained:
            _measured(measure, TrainedNetwork(config, _variables(state), None, 0), UNTRAINED)
    else:
        check_same_start(workdir, saved.record, run.get("start", ""), config)
        state = restore(state, saved.arrays, str(Workdir(workdir).checkpoint(saved.step)))
        batches.set_state(saved.record["data"])
        if validation is not None:
            validation.restore(saved.arrays["chosen"], saved.record["validation"])

    done, whitening = int(state.step), None
    longer = saved is not None and saved.record["config"]["train"]["steps"] < config.train.steps
    finished = saved is not None and saved.record.get("finished", False) and not longer
    if finished and saved is not None:
        whitening = saved.whitening
    if done < config.train.steps and not finished:
        if saved is not None:
            check_same_devices(workdir, saved.record, run)
            log.warning("going on after step %d of %s", done, workdir)
        step = parallel.data_parallel(
            make_step(network, optimizer, config.train, tuples=tuples, given=seen.given), config.train.parallel
        )
        state = _run_steps(config, workdir, photos, step, parallel.place(state), batches, run, checkpoints, validation)
    else:
        log.warning("%s is finished%s", workdir, "; it is measured again" if measure else "")
        if parallel.is_main():
            check_log(workdir, done, config.train.log_every)
    used = TrainedNetwork(config, _variables(state), whitening, int(state.step))
    if validation is not None:
        log.warning("%s", validation.verdict())
        used = used._replace(step=validation.step)
    if parallel.is_main():
        if validation is not None and validation.variables is not None:
            used = used._replace(variables=validation.variables)
        elif saved is not None and finished and "chosen" in saved.arrays:
            used = used._replace(variables=saved.arrays["chosen"]["variables"])
        else:
            used = used._replace(variables=kept(config, used.variables, before, seen))
        if whitening is None:
            used = used._replace(whitening=learn_whitening(config, network, used.variables, seen))
    changed = validation is not None or config.train.whitening_refit != "none" or config.train.start_share > 0
    if not finished and (changed or (whitening is None and config.whitening.kind != "none")):
        chosen = validation.arrays() if validation else {"variables": used.variables} if changed else None
        record = _record(run, batches, validation) | {"finished": True}
        checkpoints.save(int(state.step), state, record, used.whitening, chosen)
    checkpoints.wait()
    _measured(measure, used, "")
    return state


def _record(run: Tree, batches: Any, validation: Validation | None) -> Tree:
    return run | {"data": batches.get_state()} | ({"validation": validation.record()} if validation else {})


def split_for_validation(
    config: Config, workdir: Path, photos: PhotoSet, **words: str
) -> tuple[PhotoSet, PhotoSet | None]:
    """The photographs to train on and those to validate on; None where `config.train.validate_every` is 0.

    Those of the split `config.data.validation`, where one of `config.data.splits` has it; otherwise instances are held
    out, and `words` are those of `hold_out`.
    """
    data = config.data
    if not config.train.validate_every:
        return photos, None
    if data.dataset == "folder" and data.splits:
        named = folders_and_splits(data.root, data.splits)
        known = {folder: file for folder, file in named.items() if file and has_split(file, data.validation)}
        if known:
            cache = cache_folder(config, workdir)
            files = ",".join(known.values())
            return photos, prepare_folders(",".join(known), cache, splits=files, split=data.validation)
    return hold_out(photos, data.held_out, config.seed, **words)


def learned_start(config: Config, variables: Tree, seen: Shown) -> Tree:
    """`variables` with what starts from the training photographs: the reduction of local features, the whitening."""
    local = config.model.local
    if local.enabled and local.kind == "how" and local.init == "pca":
        variables = reduced_start(config, variables, seen.photos)
    if config.model.whitening and config.model.whitening_init in ("pca", "within"):
        variables = whitened_start(config, variables, seen, config.model.whitening_init)
    return variables


def initial_state(
    config: Config, variables: Tree, photos: PhotoSet, lengths: Lengths = ()
) -> tuple[optax.GradientTransformation, TrainState]:
    """The optimiser, of a run of these lengths, and the state before the first step, as host arrays."""
    dim = descriptor_length(config.model)
    key = jax.random.key(config.seed)
    of_loss = config.train, len(photos.instances), dim, jax.random.fold_in(key, 1)
    loss: Tree = init_loss(*of_loss)
    if config.model.local.enabled and config.model.local.kind == "delg":
        channels = variables["params"]["local"]["expand"]["kernel"].shape[1]
        loss |= {"delg": init_delg_loss(len(photos.instances), channels, jax.random.fold_in(key, 2))}
    params = {"network": variables["params"], "loss": loss}
    optimizer = build_optimizer(config.train, config.model, params, lengths)
    memory = variables["batch_stats"], optimizer.init(params), jax.random.key_data(key), init_loss_state(*of_loss)
    state = TrainState(np.int32(0), params, *memory)
    return optimizer, parallel.fetch(state)


def _run_steps(
    config: Config,
    workdir: Path,
    photos: PhotoSet,
    step_function: Callable[..., Any],
    state: TrainState,
    batches: Any,
    run: Tree,
    checkpoints: Checkpoints,
    validation: Validation | None,
) -> TrainState:
    """Steps until the last, or until validation or a signal ends it; saves on the way. The state comes to the host."""
    settings, data = config.train, config.data
    start, photos_per_step = int(state.step), photos_per_batch(config) * settings.accumulate
    running: list[tuple[int, Tree, np.ndarray]] = []  # the step on the device, whose metrics are not read yet
    remedy = (
        f"with {photos_per_step // settings.accumulate} photographs of {data.image_size} px per batch; lower "
        "config.data.instances_per_batch (config.mining.tuples_per_batch for mined tuples) or config.data.image_size "
        "and raise config.train.accumulate"
    )

    with (
        recorded() as received,
        enough_memory(remedy),
        MetricsLog(
            workdir, start, settings.steps, settings.log_every, photos_per_step, active=parallel.is_main()
        ) as metrics_log,
    ):

        def finish_running() -> bool:
            """Waits for the step on the device, checks and logs it; whether any process was asked to stop."""
            if not running:
                return False
            step, metrics, rows = running.pop()
            values = {name: float(value) for name, value in parallel.fetch(metrics).items()}
            stop = bool(values.pop("stop"))
            for name, value in values.items():
                if not math.isfinite(value):
                    names = ", ".join(photos.names[row] for row in rows[:4])
                    raise UserError(
                        f"step {step}: {name} is {value}, training stops; lower config.train.learning_rate, or look "
                        f"at the photographs of the batch ({names}, …){suspects(config)}"
                    )
            metrics_log.write(step, values)
            return stop

        def validate_after(validation: Validation, step: int) -> bool:
            """Measures the network after `step`; whether training ends here."""
            score = validation.measure(step, parallel.fetch(_variables(state)))
            metrics_log.write_validation(step, score, validation.step)
            return validation.over

        if validation is not None and start == 0:
            validate_after(validation, 0)
        over = validation is not None and validation.over  # killed, or stopped, when it had just ended
        for step in range(start + 1, start + 1 if over else settings.steps + 1):
            if isinstance(batches, MinedBatches):
                batches.start_step(step - 1, partial(parallel.fetch, _variables(state)))
            local = [next(batches) for _ in range(settings.accumulate)]
            rows = np.concatenate([batch["row"] for batch in local])
            asked = np.full(len(local[0]["row"]), bool(received.numbers))
            state, metrics = step_function(state, parallel.shard([batch | {"stop": asked} for batch in local]))
            stop = finish_running()  # of the step before, while this one runs
            stop = stop or (bool(received.numbers) and jax.process_count() == 1)  # alone there is nobody to agree with
            running.append((step, metrics, rows))
            if not received.begun:
                jax.block_until_ready(metrics)
                received.begin()
            ends = False
            if validation is not None and (step % settings.validate_every == 0 or step == settings.steps):
                stop = finish_running() or stop  # what is not finite is named by its step before it is measured
                ends = validate_after(validation, step)
            if stop or ends or step % settings.save_every == 0 or step == settings.steps:
                stop = finish_running() or stop
                chosen = validation.arrays() if validation else None
                metrics_log.sync()
                checkpoints.save(step, state, _record(run, batches, validation), chosen=chosen)
            if stop:
                checkpoints.wait()
                parallel.wait_for_all("stopped")  # the first to leave ends the others
                number = received.numbers[0] if received.numbers else signal.SIGTERM
                raise Stopped(
                    number,
                    f"stopped by {signal.Signals(number).name} after step {step}, which is saved in {workdir}; "
                    "run the same command again to go on",
                    agreed=True,
                )
            if ends and validation is not None:
                log.warning("training ends after step %d: no better network since step %d", step, validation.step)
                break
    return parallel.fetch(state)


def _measured(measure: Measure | None, trained: TrainedNetwork, tag: str) -> None:
    """Has a network measured by the main process while the others wait."""
    if measure is None:
        return
    if parallel.is_main():
        measure(trained, tag)
    parallel.wait_for_all(f"evaluation{tag}")


def _variables(state: TrainState) -> Tree:
    return {"params": state.params["network"], "batch_stats": state.batch_stats}
