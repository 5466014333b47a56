"""What admission cannot know to be wrong. A problem stalls the fleet; what serves is not touched."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from tandem_api.engine_flags import find_flag_problem
from tandem_api.v1alpha1 import Batching, EngineSettings, InferenceDeploymentSpec, Pool
from tandem_api.v1alpha1.sources import SYNTHETIC
from tandem_core.profiles import UnknownProfileError
from tandem_operator.autoscale.configure import build_settings, is_decided
from tandem_operator.autoscale.schedules import UnknownTimeZoneError
from tandem_operator.autoscale.settings import BadSettingsError
from tandem_operator.model import Problem
from tandem_operator.quantities import parse_quantity
from tandem_operator.resources.offload import find_offload_problems
from tandem_operator.slicing import find_slice_problems

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE_LENGTH = 63
_MIN_SHARED_MEMORY_BYTES = 64 * 2**20
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # every schedule's time zone is looked up, whether or not it holds then


def find_problem(spec: InferenceDeploymentSpec) -> Problem | None:
    """The first problem of a spec, or None."""
    return next((problem for check in _CHECKS for problem in check(spec)), None)


def _check_gpus(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        ranks, gpus = pool.parallelism.ranks, pool.resources.gpu
        if gpus and gpus != ranks:
            yield Problem(
                f"{path}.resources.gpu",
                f"{gpus} GPUs do not fit tensor × pipeline × data = {ranks}; set {ranks}, or leave the field out",
            )
        if ranks % pool.nodes:
            yield Problem(f"{path}.nodes", f"{ranks} GPUs do not divide among {pool.nodes} nodes; choose a divisor")
        if pool.nodes > 1 and pool.parallelism.data > 1:
            yield Problem(f"{path}.parallelism.data", "must be 1 with several nodes; scale replicas instead")


def _check_extra_arguments(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    """Admission refuses most of them; abbreviations, and what one role may not have alone, are seen here."""
    if problem := find_flag_problem(spec.engine.extra_args):
        yield Problem("spec.engine.extraArgs", str(problem))
    for path, pool in _pools(spec):
        overrides = pool.engine_overrides
        if overrides and (problem := find_flag_problem(overrides.extra_args, of_one_role=True)):
            yield Problem(f"{path}.engineOverrides.extraArgs", str(problem))


def _check_speculation(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    guess = spec.engine.speculative
    if guess is None:
        return
    if guess.source == SYNTHETIC and spec.model.source != SYNTHETIC:
        yield Problem("spec.engine.speculative.source", f"{SYNTHETIC} drafts for itself alone; name the model's draft")
    for path, pool in _pools(spec):
        if guess.draft_tensor not in (None, 1, pool.parallelism.tensor):
            yield Problem(
                "spec.engine.speculative.draftTensor",
                f"{guess.draft_tensor} is neither 1 nor {path}.parallelism.tensor; set one of these",
            )


def _check_quantities(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        if parse_quantity(pool.resources.shared_memory) < _MIN_SHARED_MEMORY_BYTES:
            yield Problem(
                f"{path}.resources.sharedMemory",
                f"{pool.resources.shared_memory} is too small for an engine; set at least 64Mi",
            )
        if pool.resources.memory and parse_quantity(pool.resources.memory) < _MIN_SHARED_MEMORY_BYTES:
            yield Problem(
                f"{path}.resources.memory",
                f"{pool.resources.memory} is less than any engine needs; did you mean {pool.resources.memory}Gi?",
            )


def _check_offload(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        yield from find_offload_problems(spec, path, pool)


def _check_batching(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        engine, own = spec.engine, pool.engine_overrides or EngineSettings()
        common, batching = engine.batching or Batching(), own.batching or Batching()
        whole = batching.chunked_prefill if batching.chunked_prefill is not None else common.chunked_prefill
        tokens = batching.max_num_batched_tokens or common.max_num_batched_tokens
        length = own.max_model_len or engine.max_model_len
        if whole is False and tokens and length and tokens < length:
            owner = f"{path}.engineOverrides" if batching.max_num_batched_tokens else "spec.engine"
            yield Problem(
                f"{owner}.batching.maxNumBatchedTokens",
                f"{tokens} is less than maxModelLen {length}, and chunkedPrefill is off: "
                "raise it, or switch chunkedPrefill on",
            )


def _check_labels(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    for path, pool in _pools(spec):
        template = pool.pod_template
        if template is None:
            continue
        for name, entries in (("labels", template.labels), ("nodeSelector", template.node_selector)):
            for key, value in entries.items():
                if not _is_label(key, value):
                    yield Problem(f"{path}.podTemplate.{name}", f"{key}={value} is not a Kubernetes label; correct it")


def _check_sim(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    if spec.engine.type == "sim" and spec.engine.image:
        yield Problem("spec.engine.image", "engine sim runs in the worker image; set engine.workerImage or remove it")


def _check_autoscaling(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    if not is_decided(spec):
        return
    try:
        build_settings(spec, _ANY_TIME)
    except UnknownProfileError as error:
        yield Problem("spec.engine.performanceProfile", str(error))
    except UnknownTimeZoneError as error:
        yield Problem("spec.autoscaling.schedules", str(error))
    except BadSettingsError as error:
        yield Problem("spec.autoscaling", str(error))


def _is_label(key: str, value: str) -> bool:
    return bool(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)) and len(value) <= _LABEL_VALUE_LENGTH


def _pools(spec: InferenceDeploymentSpec) -> Iterator[tuple[str, Pool]]:
    if spec.prefill is not None:
        yield "spec.prefill", spec.prefill
    yield "spec.decode", spec.decode


_CHECKS: tuple[Callable[[InferenceDeploymentSpec], Iterator[Problem]], ...] = (
    find_slice_problems,
    _check_gpus,
    _check_quantities,
    _check_offload,
    _check_batching,
    _check_extra_arguments,
    _check_speculation,
    _check_labels,
    _check_sim,
    _check_autoscaling,
)
