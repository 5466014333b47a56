"""Which images a revision runs. A new operator brings new defaults, and no worker restarts for them."""

from collections.abc import Sequence

from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_operator.model import Defaults
from tandem_operator.resources.names import ENGINE_IMAGE_ANNOTATION, WORKER_IMAGE_ANNOTATION
from tandem_operator.resources.podspec import Images
from tandem_operator.views import Workers


def decide_images(
    spec: InferenceDeploymentSpec, kv_revision: str, workers: Sequence[Workers], defaults: Defaults
) -> Images:
    """What the spec says; else what live workers of the same kv-revision run; else the installation's defaults.

    Inheriting by kv-revision, not by template, keeps both roles of a pair on one engine when only one role changes.
    """
    born_with = next((w for w in workers if w.kv_revision == kv_revision), None)
    recorded = born_with.manifest["metadata"].get("annotations", {}) if born_with else {}
    worker = spec.engine.worker_image or recorded.get(WORKER_IMAGE_ANNOTATION) or defaults.worker_image
    if spec.engine.type == "sim":
        return Images(engine=worker, worker=worker)
    engine = spec.engine.image or recorded.get(ENGINE_IMAGE_ANNOTATION) or defaults.engine_image
    return Images(engine=engine, worker=worker)
