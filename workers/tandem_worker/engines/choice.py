"""Which engine a configuration asks for. Each is imported only when it is the one."""

from tandem_worker.engines.engine import Engine
from tandem_worker.settings import Settings


def build_engine(settings: Settings, instance: str) -> Engine:
    """Prepare the engine; nothing runs yet.

    Raises:
        WorkerError: something that the engine needs is missing or wrong.
    """
    if settings.config.engine.type == "sim":
        from tandem_worker.engines.sim.engine import SimEngine

        return SimEngine(settings, instance)
    from tandem_worker.engines.vllm_engine import VllmEngine

    return VllmEngine(settings, instance)
