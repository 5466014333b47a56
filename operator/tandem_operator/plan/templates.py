"""Keeps the pod template of a Deployment that exists."""

from tandem_operator.kinds import Manifest
from tandem_operator.resources.names import RENDERED_ANNOTATION


def keep_template(rendered: Manifest, live: Manifest | None) -> Manifest:
    """`rendered`, with the live template where this operator would render the same revision otherwise.

    The name of a Deployment comes from what the user wrote. When the digest of the rendered template is another than
    the recorded one, the operator has changed, not the user: no worker restarts for that. With the same digest the
    rendered template stands, so that drift is repaired.
    """
    if live is None:
        return rendered
    recorded = live["metadata"].get("annotations") or {}
    if recorded.get(RENDERED_ANNOTATION) == rendered["metadata"]["annotations"][RENDERED_ANNOTATION]:
        return rendered
    kept = {name: recorded[name] for name in rendered["metadata"]["annotations"] if name in recorded}
    metadata = {**rendered["metadata"], "annotations": kept}
    spec = {**rendered["spec"], "template": live["spec"]["template"]}
    return {**rendered, "metadata": metadata, "spec": spec}
